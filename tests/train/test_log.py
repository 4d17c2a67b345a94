"""metrics.jsonl: what is kept, what comes again, what a crash may leave."""

import json
from types import SimpleNamespace

import jax.numpy as jnp
import pytest

from bertjax.train import log, spent
from bertjax.train.log import ENDED, Writer, averages, describe, read_metrics


def writer(run, start=0):
    return Writer(run, total_steps=20, start_step=start, title="test")


def fill(run, steps, split="train"):
    writing = writer(run)
    for step in steps:
        writing.write(step, {"loss": step / 10}, split=split)
    writing.close()


def test_lines(tmp_path):
    writing = writer(tmp_path)
    writing.write(5, {"loss": 1.5, "lr": 1e-4})
    writing.write(5, {"loss": 1.25}, split="dev")
    writing.close()
    first, second = (json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert first.pop("seconds") >= 0
    assert sum(first.pop("spent").values()) >= 0
    assert first == {"step": 5, "split": "train", "loss": 1.5, "lr": 1e-4}
    assert (second["split"], second["loss"]) == ("dev", 1.25)
    assert [line["step"] for line in read_metrics(tmp_path)] == [5, 5]


def test_a_resumed_run_drops_the_lines_that_come_again(tmp_path):
    fill(tmp_path, [5, 10, 15])
    resumed = writer(tmp_path, start=10)
    assert [line["step"] for line in read_metrics(tmp_path)] == [5, 10]
    resumed.write(15, {"loss": 1.5})
    resumed.close()
    assert [line["step"] for line in read_metrics(tmp_path)] == [5, 10, 15]


def test_a_torn_last_line_is_no_harm(tmp_path):
    fill(tmp_path, [5, 10])
    path = tmp_path / "metrics.jsonl"
    with path.open("a") as file:
        file.write('{"step": 15, "spl')
    assert [line["step"] for line in read_metrics(tmp_path)] == [5, 10]
    writer(tmp_path, start=10).close()
    assert path.read_bytes().endswith(b"}\n") and len(path.read_text().splitlines()) == 2


def test_seconds_go_on_where_they_were(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 5, "split": "train", "loss": 1.0, "seconds": 1000.0}\n')
    resumed = writer(tmp_path, start=5)
    resumed.write(6, {"loss": 1.0})
    resumed.close()
    assert 1000 <= read_metrics(tmp_path)[-1]["seconds"] < 1060


def test_time_is_told_by_what_it_went_into(tmp_path, capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(spent, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def train(start, *, steps, since):
        """A process that reaches its last step, which is logged with what it took; a killed one is not closed."""
        writing = Writer(tmp_path, total_steps=20, start_step=start, title="test", since=since)
        for step, seconds in steps:
            now[0] += seconds
            writing.reached = step
            writing.write(step, {"loss": 1.0})
        return writing

    parts = {"steps": 0, "start": 0, "compile": 0, "data": 0, "evaluate": 0, "save": 0, "lost": 0}
    train(0, steps=[(5, 8), (10, 8), (15, 8)], since=90)  # killed; the last checkpoint is of step 10
    resumed = train(10, steps=[(15, 7)], since=97 + 24)
    with resumed.spent.on("save"):
        now[0] += 1
    resumed.close()
    ended = read_metrics(tmp_path)[-1]
    assert (ended["step"], ended["split"], ended["seconds"]) == (15, ENDED, 45)
    assert ended["spent"] == {**parts, "start": 13, "steps": 23, "save": 1, "lost": 8}
    said = "step 15 ended: 45 s in all: 51% steps, 29% starting, "
    assert said + "2% saving, 18% lost steps\n" in capsys.readouterr().err

    train(15, steps=[], since=124).close()  # nothing is left to be trained
    assert [line["split"] for line in read_metrics(tmp_path)] == ["train"] * 3 + [ENDED]
    assert ENDED not in capsys.readouterr().err

    now[0] += 30  # idle
    train(15, steps=[(20, 5)], since=now[0]).close()
    assert [line["seconds"] for line in read_metrics(tmp_path)] == [18, 26, 44, 45, 50, 50]
    assert read_metrics(tmp_path)[-1]["spent"] == {**parts, "start": 13, "steps": 28, "save": 1, "lost": 8}


def test_no_file_is_no_lines(tmp_path):
    assert read_metrics(tmp_path) == []


def test_averages():
    metrics = {"a_loss": (jnp.float32(6), jnp.float32(4)), "b_loss": (jnp.float32(1), jnp.float32(2))}
    metrics["accuracy"] = (jnp.float32(3), jnp.float32(4))
    got = averages(metrics, ("a_loss", "b_loss"))
    assert got == {"loss": 2.0, "a_loss": 1.5, "b_loss": 0.5, "accuracy": 0.75}
    assert averages({"x": (jnp.float32(0), jnp.float32(0)), "y": (jnp.float32(2), jnp.float32(1))}, ("y",)) == {
        "loss": 2.0,
        "x": 0.0,
        "y": 2.0,
    }
    assert averages({"x": (jnp.float32(0), jnp.float32(0))}, ("x",)) == {}


@pytest.mark.parametrize(
    ("figures", "text"),
    [
        ({"loss": 1.23456, "mlm_loss": 9.0, "mlm_accuracy": 0.5}, "loss 1.235  masked acc 0.500"),
        ({"lr": 1e-4, "tokens_per_second": 12345.6}, "lr 1.00e-04  tok/s 12,346"),
        ({"loss": 2.0, "gflops_per_second": 41.23}, "loss 2.000  GFLOP/s 41"),
        ({"loss": 2.0, "data_wait": 0.0499}, "loss 2.000"),
        ({"loss": 2.0, "data_wait": 0.345}, "loss 2.000  waits for data 34%"),
        ({"mfu": 0.4312}, "mfu 43.1%"),
    ],
)
def test_describe(figures, text):
    assert describe(figures) == text


def test_console_says_how_long_it_will_take(tmp_path, capsys, monkeypatch):
    """From the second line on: what comes before the first is compiling."""
    seconds = iter(range(0, 1000, 100))
    fill(tmp_path, [10], split="dev")
    monkeypatch.setattr(log, "time", SimpleNamespace(perf_counter=lambda: float(next(seconds))))
    fill(tmp_path, [10, 15])
    said = capsys.readouterr().err
    assert "step 10/20  loss 1.000\n" in said and "step 15/20  loss 1.500  eta 100 s\n" in said
    assert "step 10 dev: loss 1.000" in said


def test_a_run_that_begins_again_writes_its_first_line_once(tmp_path):
    fill(tmp_path, [0], split="dev")
    fill(tmp_path, [0, 8], split="dev")
    assert [line["step"] for line in read_metrics(tmp_path)] == [0, 8]
