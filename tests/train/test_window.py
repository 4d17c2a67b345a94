"""What a line of the log says of time and work."""

import json
import time
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from bertjax.train import spent
from bertjax.train.guard import Guard, Watch
from bertjax.train.log import Writer, read_metrics
from bertjax.train.spent import Moment
from bertjax.train.window import NEVER, LateLog, Rates, Window


@pytest.fixture
def writer(tmp_path):
    made = Writer(tmp_path, total_steps=9, start_step=0, title="test")
    yield made
    made.close()


def window(loss=1.0, **known):
    return Window({"a": (np.float32(2 * loss), np.float32(2))}, **known)


def late_log(writer):
    watch = Watch(Guard(), writer, lambda step, before: [], {})
    return LateLog(writer, watch, Rates(lambda step: 0.0, peak_flops=0), ("a",))


def test_window_survives_json():
    values = {"a": (np.float32(1 / 3), np.float32(7)), "b": (np.float32(1e-30), np.float32(2**24 + 2))}
    saved = json.loads(json.dumps(Window(values).to_json()))
    jax.tree.map(np.testing.assert_array_equal, Window.from_json(saved, NEVER).metrics, values)


def test_rates_leave_out_what_is_no_training():
    rates = Rates(lambda step: step / 10, peak_flops=2e9)
    work = [(np.float32(100), 5e6), (np.float32(200), 1.25e7)]
    figures = rates.figures(window(work=work, began=Moment(10, 1, 0)), 5, ended=Moment(15, 3, 1.5))
    assert figures["lr"] == 0.4
    assert figures["tokens_per_second"] == pytest.approx(100, rel=0.01)
    assert figures["mfu"] == pytest.approx(0.5, rel=0.01) and "gflops_per_second" not in figures
    assert figures["data_wait"] == 0.5


def test_without_a_known_peak_there_is_no_mfu():
    rates = Rates(lambda step: 0.0, peak_flops=0)
    figures = rates.figures(window(work=[(np.float32(1), 3e9)], began=Moment(10, 0, 0)), 0, ended=Moment(13, 0, 0))
    assert figures["gflops_per_second"] == pytest.approx(1, rel=0.01) and "mfu" not in figures


def test_a_window_waits_until_it_is_asked_for(tmp_path, writer):
    late = late_log(writer)
    following = late.put(5, window(3.0))
    assert read_metrics(tmp_path) == [] and following.began == NEVER
    late.flush(following)
    assert [(line["step"], line["loss"]) for line in read_metrics(tmp_path)] == [(5, 3.0)]
    assert following.began.seconds == pytest.approx(time.perf_counter(), abs=1)
    late.flush(following)
    assert len(read_metrics(tmp_path)) == 1


def test_the_time_of_a_window_begins_where_that_of_the_one_before_it_ends(writer, monkeypatch):
    """Not when its line is written: the devices are at work on the next step meanwhile."""
    now = [0.0]
    monkeypatch.setattr(spent, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    late = late_log(writer)
    monkeypatch.setattr(writer, "write", lambda *_: now.__setitem__(0, now[0] + 30))
    following = late.put(5, window())
    now[0] += 7
    late.flush(following)
    assert following.began.seconds == 7


def test_it_is_written_at_the_end_even_after_a_fault(tmp_path, writer):
    with pytest.raises(KeyError), late_log(writer) as late:
        late.put(7, window())
        raise KeyError
    assert read_metrics(tmp_path)[0]["step"] == 7


def test_a_window_of_skipped_steps_has_no_loss(tmp_path, writer):
    late = late_log(writer)
    late.flush(late.put(7, Window({"a": (np.float32(0), np.float32(0))})))
    (line,) = read_metrics(tmp_path)
    assert line["step"] == 7 and "loss" not in line and "tokens_per_second" in line
