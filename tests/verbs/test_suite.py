"""Several runs as one command: tasks of GLUE, seeds, a grid, a start from MNLI."""

import json
import random
import zipfile
from itertools import pairwise
from pathlib import Path
from statistics import mean, median

import pytest

from bertjax import suite
from bertjax.config import Finetune
from bertjax.jsonio import write_json

WORDS = ["the", "a", "cat", "dog", "bird", "sat", "ran", "flew", "saw", "heard"]
MNLI_LABELS = ("entailment", "neutral", "contradiction")


@pytest.fixture(scope="session")
def glue(home):
    """CoLA, RTE, MNLI and WNLI, a few rows each."""
    rng = random.Random(5)
    folder = home / "suite"

    def text():
        return " ".join(rng.sample(WORDS, 3))

    def write(name, header, row, labels):
        path = folder / f"{name}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(header + "".join(row.format(text(), text(), labels[i % len(labels)]) for i in range(16)))

    for split in ("train", "dev"):
        write(f"CoLA/{split}", "", "x\t{2}\t\t{0}\n", "01")
        pairs = "sentence1\tsentence2\t"
        write(f"RTE/{split}", pairs + "label\n", "{0}\t{1}\t{2}\n", ("entailment", "not_entailment"))
        write(f"WNLI/{split}", pairs + "label\n", "{0}\t{1}\t{2}\n", "01")
        for part in ("_matched", "_mismatched") if split == "dev" else ("",):
            write(f"MNLI/{split}{part}", pairs + "gold_label\n", "{0}\t{1}\t{2}\n", MNLI_LABELS)
    return folder


@pytest.fixture
def finetune(bertjax, home, pretrained, glue, tmp_path):
    """finetune(options) -> Outcome; the runs are in tmp_path/out."""

    def call(options):
        command = f"finetune {home}/finetune.py --from {pretrained} --data {glue} --out {tmp_path}/out --epochs 1"
        return bertjax(*f"{command} {options}".split())

    return call


def figures(path):
    return json.loads(path.read_text())


@pytest.mark.late
def test_glue_from_mnli_with_two_seeds_goes_on_where_it_stopped(finetune, tmp_path, pretrained, monkeypatch):
    out = tmp_path / "out"
    begun, finetune_one = [], suite.run.finetune

    def counted(config):
        begun.append(config.out.removeprefix(f"{out}/"))
        if len(begun) == 4:
            raise KeyboardInterrupt
        finetune_one(config)

    monkeypatch.setattr(suite.run, "finetune", counted)
    options = "--task glue --seeds 0 1 --from-mnli"
    assert finetune(options).code == 130
    outcome = finetune(options)
    assert outcome.code == 0, outcome.err
    order = [f"{task}/seed-{seed}" for task in ("mnli", "cola", "rte", "wnli") for seed in (0, 1)]
    assert begun == [*order[:4], *order[3:]]  # three were finished
    assert "no files of sst2" in outcome.err and f"{out}/mnli/seed-0 is finished" in outcome.err
    assert figures(out / "rte/seed-1/config.json")["config"]["source"] == f"{out}/mnli/seed-1"
    assert figures(out / "cola/seed-1/config.json")["config"]["source"] == str(pretrained)
    scores = figures(out / "scores.json")
    assert scores["missing"] == ["sst2", "mrpc", "stsb", "qqp", "qnli"] and scores["seeds"] == [0, 1]
    assert list(scores["tasks"]["mnli"]["metrics"]) == ["accuracy", "accuracy dev_mismatched"]
    one = scores["tasks"]["rte"]["metrics"]["accuracy"]
    values = [figures(out / f"rte/seed-{seed}/scores.json")["metrics"]["accuracy"] for seed in (0, 1)]
    assert one == {
        "median": median(values),
        "mean": mean(values),
        "spread": max(values) - min(values),
        "best": max(values),
        "values": values,
    }
    counted_tasks = ("mnli", "cola", "rte")  # not wnli
    assert scores["average"] == pytest.approx(mean(scores["tasks"][t]["score"]["median"] for t in counted_tasks))
    assert scores["formula"].startswith("mean over mnli, cola, rte of the median over seeds")
    assert scores["formula"] in outcome.out.replace("\n", " ") and f"{scores['average']:.4f}" in outcome.out
    assert all(column in outcome.out for column in ("median", "mean", "spread", "best"))


@pytest.mark.late
def test_the_best_point_of_a_grid_is_told(finetune, tmp_path, monkeypatch):
    monkeypatch.setitem(suite.GRIDS, "bert", [(8, 1e-2, 1), (16, 1e-3, 2)])
    outcome = finetune("--task rte --grid bert --seed 3")
    assert outcome.code == 0, outcome.err
    folders = [tmp_path / "out/rte/batch-8_rate-0.01_epochs-1", tmp_path / "out/rte/batch-16_rate-0.001_epochs-2"]
    scores = [figures(folder / "seed-3/scores.json")["metrics"]["accuracy"] for folder in folders]
    config = figures(folders[1] / "seed-3/config.json")["config"]
    assert (config["batch_size"], config["optimizer"]["peak_lr"], config["epochs"]) == (16, 1e-3, 2)
    result = figures(tmp_path / "out/scores.json")
    assert result["average"] == max(scores)
    assert result["tasks"]["rte"]["runs"][0].startswith("rte/batch-")


def test_of_equal_points_the_first_is_taken(tmp_path, monkeypatch):
    points = [(8, 1e-2, 1), (16, 1e-3, 2), (16, 1e-2, 2), (32, 1e-2, 2)]
    monkeypatch.setitem(suite.GRIDS, "bert", points)
    scores = dict(zip(points, (0.5, 0.75, 0.75, 0.25), strict=True))

    def once(config):
        score = scores[config.batch_size, config.optimizer.peak_lr, config.epochs]
        write_json(Path(config.out) / "scores.json", {"metrics": {"accuracy": score}, "also": {}})

    monkeypatch.setattr(suite, "_once", once)
    suite._all(Finetune(task="rte", grid="bert", out=str(tmp_path), seeds=(0, 1)), ["rte"], [])
    chosen = "rte/batch-16_rate-0.001_epochs-2"
    assert figures(tmp_path / "scores.json")["tasks"]["rte"]["runs"] == [f"{chosen}/seed-0", f"{chosen}/seed-1"]


def test_the_grids_are_the_published_ones():
    assert len(suite.GRIDS["bert"]) == 18 and len(suite.GRIDS["small"]) == 20
    assert {batch for batch, _, _ in suite.GRIDS["bert"]} == {16, 32}
    assert all(a != b for a, b in pairwise(suite.GRIDS["small"]))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--task cola --from-mnli", "give it with --task glue"),
        ("--task glue --from-mnli --encoder random", "from_mnli is for a pretrained encoder"),
        ("--task cola --seeds 1 1", "seeds=1 1: give each once"),
        ("--task glue --data {empty}", "has the files of none of its tasks"),
        ("--task glue --data {empty}/.. --columns.label x", "those of cola are known"),
    ],
)
def test_mistakes(finetune, tmp_path, options, said):
    (tmp_path / "empty").mkdir()
    outcome = finetune(options.format(empty=tmp_path / "empty"))
    assert outcome.code == 2 and said in outcome.err and not (tmp_path / "out").exists()


def test_from_mnli_needs_mnli(finetune, glue, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/RTE").symlink_to(glue / "RTE")
    outcome = finetune(f"--task glue --from-mnli --data {tmp_path}/data")
    assert outcome.code == 2 and "has no files of MNLI" in outcome.err


@pytest.mark.late
def test_a_submission_of_all_tasks(finetune, bertjax, glue, tmp_path):
    assert finetune("--task glue --seeds 0 1").code == 0
    moved, data = tmp_path / "moved", tmp_path / "tests"
    (tmp_path / "out").rename(moved)
    for name in ("CoLA/test", "RTE/test", "MNLI/test_matched", "diagnostic/diagnostic"):
        (data / name).parent.mkdir(parents=True)
        text = "index\tsentence\n0\ta cat\n" if "CoLA" in name else "index\tsentence1\tsentence2\n0\ta cat\ta dog\n"
        (data / f"{name}.tsv").write_text(text)
    outcome = bertjax("evaluate", moved, "--data", data, "--split", "test")
    assert outcome.code == 0, outcome.err
    with zipfile.ZipFile(moved / "submission.zip") as archive:
        assert archive.namelist() == ["CoLA.tsv", "MNLI-m.tsv", "RTE.tsv", "AX.tsv"]
        assert archive.read("AX.tsv").decode().startswith("index\tprediction\n0\t")
    assert "the leaderboard also wants MNLI-mm.tsv, MRPC.tsv, QNLI.tsv" in outcome.err.replace("\n", " ")
    assert "wnli: left out" in outcome.err
    outcome = bertjax("evaluate", moved, "--data", glue)
    assert outcome.code == 0 and figures(moved / "scores-rte-dev.json")["metrics"].keys() == {"accuracy"}
    best = max(figures(moved / f"rte/seed-{seed}/scores.json")["metrics"]["accuracy"] for seed in (0, 1))
    assert figures(moved / "scores-rte-dev.json")["metrics"]["accuracy"] == best
    outcome = bertjax("evaluate", moved, "--data", glue, "--task", "rte")
    assert outcome.code == 2 and "several tasks" in outcome.err
