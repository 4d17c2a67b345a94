"""GLUE through the command line: both dev sets of MNLI, the diagnostic set, submissions to the leaderboard."""

import json
import random

import pytest

WORDS = ["the", "a", "cat", "dog", "bird", "sat", "ran", "flew", "saw", "heard"]
LABELS = ["entailment", "neutral", "contradiction"]


def pairs(seed, count, *, labelled=True):
    """Lines with an index, two texts, and a label that says how many words they share."""
    rng = random.Random(seed)
    for i in range(count):
        first, label = rng.sample(WORDS, 4), rng.randrange(3)
        second = first[: (4, 2, 0)[label]] + rng.sample(WORDS, (0, 2, 4)[label])
        line = f"{i}\t{' '.join(first)}\t{' '.join(second)}"
        yield f"{line}\t{LABELS[label]}" if labelled else line


@pytest.fixture(scope="session")
def nli(home):
    """MNLI and the diagnostic set."""
    folder = home / "nli"
    for name in ("MNLI", "diagnostic"):
        (folder / name).mkdir(parents=True)
    header = "index\tsentence1\tsentence2"
    for seed, (name, count) in enumerate({"train": 48, "dev_matched": 16, "dev_mismatched": 9}.items()):
        text = "\n".join([f"{header}\tgold_label", *pairs(seed, count)])
        (folder / f"MNLI/{name}.tsv").write_text(text)
    for name in ("MNLI/test_matched", "MNLI/test_mismatched", "diagnostic/diagnostic"):
        (folder / f"{name}.tsv").write_text("\n".join([header, *pairs(7, 5, labelled=False)]))
    (folder / "diagnostic/diagnostic-full.tsv").write_text(
        "\n".join(["index\tPremise\tHypothesis\tLabel", *pairs(8, 12)])
    )
    return folder


def figures(path):
    return json.loads(path.read_text())


def test_mnli_and_the_diagnostic_set(bertjax, home, pretrained, nli, tmp_path):
    run = tmp_path / "run"
    command = ["--task", "mnli", "--from", pretrained, "--data", nli, "--out", run, "--epochs", 2]
    outcome = bertjax("finetune", home / "finetune.py", *command)
    assert outcome.code == 0, outcome.err
    scores = figures(run / "scores.json")
    assert scores["also"].keys() == {"dev_mismatched"} and scores["also"]["dev_mismatched"].keys() == {"accuracy"}
    assert {name: part["rows"] for name, part in scores["data"].items()} == {
        "train": 48,
        "dev": 16,
        "dev_mismatched": 9,
    }
    assert "this run, dev_mismatched" in outcome.out
    assert bertjax("evaluate", run, "--data", nli, "--split", "dev_mismatched").code == 0
    assert figures(run / "scores-dev_mismatched.json")["metrics"] == scores["also"]["dev_mismatched"]
    assert bertjax("evaluate", run, "--data", nli, "--task", "ax").code == 0
    assert figures(run / "scores-ax-dev.json")["metrics"].keys() == {"matthews"}
    for split, task, name in (
        ("test", "mnli", "MNLI-m"),
        ("test_mismatched", "mnli", "MNLI-mm"),
        ("test", "ax", "AX"),
    ):
        outcome = bertjax("evaluate", run, "--data", nli, "--split", split, "--task", task)
        assert outcome.code == 0 and f"5 predictions for the leaderboard in {run}/submission/{name}.tsv" in outcome.err
        header, *rows = (run / f"submission/{name}.tsv").read_text().splitlines()
        assert header == "index\tprediction" and [row.split("\t")[0] for row in rows] == list("01234")
        assert all(row.split("\t")[1] in LABELS for row in rows)
    assert not list(run.glob("scores-*test*"))  # these rows have no labels


def test_another_task_needs_the_same_labels(bertjax, finetuned, nli):
    outcome = bertjax("evaluate", finetuned, "--data", nli, "--task", "ax")
    assert outcome.code == 2 and "entailment, neutral, contradiction" in outcome.err and "ham, spam" in outcome.err
