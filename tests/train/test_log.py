"""metrics.jsonl: what is kept, what comes again, what a crash may leave."""

import json

import jax.numpy as jnp
import pytest

from bertjax.train import log
from bertjax.train.log import Writer, averages, describe, read_metrics


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
    monkeypatch.setattr(log.time, "perf_counter", lambda: float(next(seconds)))
    fill(tmp_path, [10, 15])
    said = capsys.readouterr().err
    assert "step 10/20  loss 1.000\n" in said and "step 15/20  loss 1.500  eta 200 s\n" in said
    assert "step 10 dev: loss 1.000" in said


def test_a_run_that_begins_again_writes_its_first_line_once(tmp_path):
    fill(tmp_path, [0], split="dev")
    fill(tmp_path, [0, 8], split="dev")
    assert [line["step"] for line in read_metrics(tmp_path)] == [0, 8]
