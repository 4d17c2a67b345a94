"""Paths of other machines are refused with the way to get them here, before anything is begun."""

import pytest

PRETRAIN = "pretrain {home}/pretrain.py --data {data} --out {tmp}/run"


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (
            PRETRAIN + " --data gs://b/data",
            ["--data gs://b/data", "gcloud storage cp --recursive gs://b/data", "gcsfuse"],
        ),
        (PRETRAIN + " --data {data} s3://b/data", ["--data s3://b/data", "aws s3 cp --recursive s3://b/data"]),
        (PRETRAIN + " --out gs://b/run", ["--out gs://b/run", "copy the run there", "Filestore"]),
        (PRETRAIN + " --data file:///data", ["--data file:///data", "drop file://"]),
        ("finetune {home}/finetune.py --task cola --from gs://b/run --data . --out {tmp}/run", ["--from gs://b/run"]),
        ("evaluate gs://b/run --data {home}", ["RUN gs://b/run", "gcloud storage"]),
        (
            "predict {tmp} --input https://h/texts.tsv --out {tmp}/p.tsv",
            ["--input https://h/texts.tsv", "fetch https:"],
        ),
        ("embed GS://b/run --input {home}/corpus.txt --out {tmp}/v.npy", ["RUN GS://b/run"]),
        ("convert --from {tmp} --to gs://b/hf", ["--to gs://b/hf"]),
        ("prepare --corpus {home}/corpus.txt --out gs://b/data", ["--out gs://b/data"]),
        ("prepare --corpus {home}/corpus.txt --tokenizer gs://b/v.txt --out {tmp}/d", ["--tokenizer gs://b/v.txt"]),
        ("prepare --corpus gs://b/text --out {tmp}/d", ["gs://b/text"]),
        ("inspect gs://b/run", ["inspect gs://b/run"]),
        ("report {tmp} gs://b/run", ["report gs://b/run"]),
        ("doctor --out gs://b/run", ["--out gs://b/run"]),
    ],
)
def test_a_path_with_a_scheme(bertjax, home, data, tmp_path, command, told):
    outcome = bertjax(*(part.format(home=home, data=data, tmp=tmp_path) for part in command.split()))
    assert outcome.code == 2 and all(text in outcome.err for text in told), outcome.err
    assert outcome.err.count("\n") == 1 and not list(tmp_path.iterdir())
