"""Texts of the user's own through the command line: what a run was told of the columns, it knows ever after."""

import gzip
import json
import random

import pytest

from bertjax.saved import open_run


def figures(path):
    return json.loads(path.read_text())


@pytest.mark.slow
def test_classes_of_a_csv_file_without_header(bertjax, home, pretrained, tmp_path):
    rng = random.Random(0)
    for name, count in (("train", 48), ("test", 12)):
        rows = [(rng.choice(["10", "9", "b"]), rng.choice(["the cat", "a bird"])) for _ in range(count)]
        text = "".join(f'"{label}","{words}, {words}","{words}"\n' for label, words in rows)
        (tmp_path / f"{name}.csv.gz").write_bytes(gzip.compress(text.encode()))
    run = tmp_path / "run"
    command = ["--task", "text", "--from", pretrained, "--data", tmp_path, "--out", run, "--epochs", 1]
    command += ["--columns.texts", "title", "body", "--columns.label", "class", "--baseline", "tfidf"]
    command += ["--columns.header", "class", "title", "body", "--columns.files", "train.csv", "test.csv"]
    outcome = bertjax("finetune", home / "finetune.py", *command)
    assert outcome.code == 0, outcome.err
    scores = figures(run / "scores.json")
    assert scores["metrics"].keys() == scores["baseline"]["tfidf"].keys() == {"accuracy", "macro_f1"}
    assert figures(run / "config.json")["config"]["columns"]["labels"] == ["10", "9", "b"]
    assert open_run(run).objective().config.classes == 3
    assert bertjax("evaluate", run, "--data", tmp_path).code == 0
    assert figures(run / "scores-dev.json")["metrics"] == scores["metrics"]
    (tmp_path / "in.csv").write_text('title,body\n"a cat, a bird",cat\n')
    assert bertjax("predict", run, "--input", tmp_path / "in.csv", "--out", tmp_path / "o.jsonl").code == 0
    assert figures(tmp_path / "o.jsonl")["probabilities"].keys() == {"10", "9", "b"}
    assert bertjax("finetune", home / "finetune.py", *command).code == 0  # the same run, its labels found again
    directory = tmp_path / "hf"
    assert bertjax("convert", "--from", run, "--to", directory).code == 0
    assert bertjax("evaluate", directory, "--data", tmp_path, "--out", tmp_path / "again.json").code == 0
    assert figures(tmp_path / "again.json")["metrics"] == scores["metrics"]
    spoilt = (directory / "config.json").read_text().replace("train.csv", "../train.csv")
    (directory / "config.json").write_text(spoilt)
    outcome = bertjax("evaluate", directory, "--data", tmp_path)
    assert outcome.code == 2 and "only names without folders" in outcome.err


def test_regression_of_json_lines(bertjax, home, pretrained, tmp_path):
    for name, count in (("train", 32), ("dev", 8)):
        rows = [{"review": "cat " * (i % 5 + 1), "stars": i % 5} for i in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = tmp_path / "run"
    command = ["--task", "text", "--from", pretrained, "--data", tmp_path, "--out", run, "--epochs", 1]
    command += ["--columns.texts", "review", "--columns.label", "stars", "--columns.regression", "--micro-batches", 2]
    assert bertjax("finetune", home / "finetune.py", *command).code == 0
    assert figures(run / "scores.json")["metrics"].keys() == {"pearson", "spearman"}
    (tmp_path / "in.tsv").write_text("cat cat\n")
    assert bertjax("predict", run, "--input", tmp_path / "in.tsv", "--out", tmp_path / "o.tsv").code == 0
    assert len((tmp_path / "o.tsv").read_text().splitlines()) == 2
    assert bertjax("convert", "--from", run, "--to", tmp_path / "hf").code == 0
    about = json.loads((tmp_path / "hf/config.json").read_text())
    (tmp_path / "hf/config.json").write_text(json.dumps(about | {"id2label": {"0": "stars"}}))  # a name for its output
    assert bertjax("evaluate", tmp_path / "hf", "--data", tmp_path, "--out", tmp_path / "again.json").code == 0
    again, first = (figures(path)["metrics"] for path in (tmp_path / "again.json", run / "scores.json"))
    assert again == pytest.approx(first, abs=1e-3)  # of predictions that are nearly alike


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--task cola --columns.label x", "task=text); those of cola are known"),
        ("--task text --columns.texts a b c", "the two of a pair"),
        ("--task text --columns.label words", "there is no column 'words'"),
    ],
)
def test_mistakes(bertjax, home, pretrained, tmp_path, options, said):
    (tmp_path / "train.tsv").write_text("text\tlabel\nx\t1\n")
    command = f"finetune {home}/finetune.py --from {pretrained} --data {tmp_path} --out {tmp_path}/run {options}"
    outcome = bertjax(*command.split())
    assert outcome.code == 2 and said in outcome.err and not (tmp_path / "run").exists()
