"""Paths of other machines, where they are not taken, are refused with the way to get them here, before all else."""

from pathlib import Path

import pytest

PRETRAIN = "pretrain {home}/pretrain.py --data {data} --out {tmp}/run"


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (PRETRAIN + " --data {data} s3://b/data", ["--data s3://b/data", "aws s3 cp --recursive s3://b/data"]),
        (PRETRAIN + " --data file:///data", ["--data file:///data", "drop file://"]),
        (
            "predict {tmp} --input https://h/texts.tsv --out {tmp}/p.tsv",
            ["--input https://h/texts.tsv", "fetch https:"],
        ),
        (PRETRAIN.replace("{tmp}", "s3://b"), ["--out s3://b/run", "copy it there", "Filestore"]),
        (
            "finetune {home}/finetune.py --task cola --from {tmp} --data gs://b/glue --out {tmp}/run",
            ["--data gs://b/glue", "gcloud storage cp --recursive gs://b/glue"],
        ),
        ("predict {tmp} --input {home}/t.tsv --out gs://b/p.tsv", ["--out gs://b/p.tsv", "gcloud storage cp"]),
        ("embed {tmp} --input GS://b/t.txt --out {tmp}/v.npy", ["--input GS://b/t.txt"]),
        ("inspect s3://b/run", ["inspect s3://b/run", "aws s3 cp"]),
        ("report {tmp} s3://b/run", ["report s3://b/run"]),
        ("doctor --out s3://b/run", ["--out s3://b/run"]),
        ("convert --from {tmp} --to gs://b/hf", ["--to gs://b/hf"]),
        ("prepare --corpus {home}/corpus.txt --out gs://b/data", ["--out gs://b/data"]),
        ("prepare --corpus {home}/corpus.txt --tokenizer gs://b/v.txt --out {tmp}/d", ["--tokenizer gs://b/v.txt"]),
        ("prepare --corpus gs://b/text --out {tmp}/d", ["gs://b/text"]),
    ],
)
def test_a_path_with_a_scheme(bertjax, home, data, tmp_path, command, told):
    outcome = bertjax(*(part.format(home=home, data=data, tmp=tmp_path) for part in command.split()))
    assert outcome.code == 2 and all(text in outcome.err for text in told), outcome.err
    assert outcome.err.count("\n") == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "command",
    ["pretrain {home}/pretrain.py --data {data} --out {tmp}/\udcff", "inspect {tmp}/\udcff", "list \udcff"],
)
def test_a_name_that_is_not_utf_8(bertjax, home, data, tmp_path, command):
    outcome = bertjax(*(part.format(home=home, data=data, tmp=tmp_path) for part in command.split()))
    assert outcome.code == 2 and r"\udcff: not UTF-8, as names must be that are written to files" in outcome.err
    assert outcome.err.count("\n") == 1 and not list(tmp_path.iterdir())


def test_a_folder_that_is_not_utf_8(bertjax, home, data, tmp_path, monkeypatch):
    (tmp_path / "\udcff").mkdir()
    monkeypatch.chdir(tmp_path / "\udcff")
    outcome = bertjax("pretrain", home / "pretrain.py", "--data", data, "--out", "run")
    assert outcome.code == 2 and rf"{tmp_path}/\udcff/run: not UTF-8" in outcome.err
    assert outcome.err.count("\n") == 1 and not list(Path.cwd().iterdir())
