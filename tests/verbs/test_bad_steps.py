"""Steps gone bad, from the command line: what a run says of them, and how it goes back."""

import gc
from dataclasses import replace

import jax
import numpy as np
import pytest

from bertjax import pretraining, run, session
from bertjax.data.loader import Loader
from bertjax.train.checkpoint import Checkpoint, Checkpoints
from bertjax.train.log import read_metrics
from bertjax.train.stop import Interrupted


@pytest.fixture(scope="module")
def places(tiny):
    """Where the batch of each step is: of step 1, 2, ... 40."""
    loader, found = Loader(pretraining.session_of(replace(tiny, out="-")).phases[0][1]), []
    for _ in range(40):
        found.append(loader.places)
        next(loader)
    loader.close()
    return [[place[:3] for place in one] for one in found]


@pytest.fixture
def poison(monkeypatch, places):
    """poison(number, ...): the data that are those of these steps in an undisturbed run give no number."""
    bad = []

    class Poisoned(session.Phases):
        def __next__(self):
            here = [place[:3] for place in self.places]
            batch = super().__next__()
            if here in bad:
                batch["masked_weights"] = np.where(batch["masked_weights"] > 0, np.float32(np.nan), 0)
            return batch

    monkeypatch.setattr(session, "Phases", Poisoned)
    return lambda *steps: bad.extend(places[step - 1] for step in steps)


def of(folder, what):
    return [line for line in read_metrics(folder) if line["split"] == what]


def bytes_held():
    gc.collect()
    return sum(x.nbytes for x in jax.live_arrays() if not x.is_deleted())


@pytest.fixture
def command(home, data, tmp_path):
    return ["pretrain", home / "pretrain.py", "--data", data, "--out", tmp_path / "run"]


def test_a_bad_step_is_told_with_its_examples(bertjax, command, poison, places, tmp_path, tiny):
    poison(7)
    assert bertjax(*command).code == 0
    (told,) = of(tmp_path / "run", "skipped")
    assert told["step"] == 7 and [place[:3] for place in told["places"]] == [list(place) for place in places[6]]
    source = pretraining.session_of(replace(tiny, out="-")).phases[0][1].sources[0]
    (examples,) = told["examples"]
    epoch, window, batch = places[6][0]
    order = source._load(epoch, window).order
    assert examples == order[batch * 8 : batch * 8 + 8].tolist()
    assert [line["step"] for line in of(tmp_path / "run", "train")] == list(range(1, 17))
    assert "loss" not in of(tmp_path / "run", "train")[6]


def test_three_in_a_row_stop_it_with_a_diagnosis(bertjax, command, poison):
    poison(7, 8, 9)
    outcome = bertjax(*command)
    assert outcome.code == 2 and "in 3 steps in a row (7 to 9)" in outcome.err
    assert "--guard.then rollback" in outcome.err
    again = bertjax(*command)  # from the checkpoint of step 5: the same data, the same end
    assert again.code == 2 and "in 3 steps in a row (7 to 9)" in again.err


def test_it_goes_back_and_on_with_the_data_after_them(bertjax, command, poison, places, tmp_path, tiny, monkeypatch):
    poison(7, 8, 9)
    before, held, restore = bytes_held(), [], Checkpoint.state

    def state(step, like):
        held.append(bytes_held() - before)
        restored = restore(step, like)
        held.append(sum(x.nbytes for x in jax.tree.leaves(restored)))
        return restored

    monkeypatch.setattr(Checkpoint, "state", state)
    outcome = bertjax(*command, "--guard.then", "rollback", "--profile", "15:16")
    folder = tmp_path / "run"
    assert "a trace of steps 15 to 16 of this start" in outcome.err and "no trace" not in outcome.err
    assert held[0] < held[1] / 10  # the state that failed is gone before another one comes
    assert (
        outcome.code == 0 and "step 5 rolled back: goes on from here after the failure in steps 7 to 9" in outcome.err
    )
    assert [line["step"] for line in of(folder, "train")] == list(range(1, 17))
    (told,) = of(folder, "rolled back")
    assert (told["from"], [step["step"] for step in told["steps"]]) == (9, [7, 8, 9]) and of(folder, "skipped") == []
    assert [len(examples) for step in told["steps"] for examples in step["examples"]] == [8, 8, 8]
    checkpoints = Checkpoints(folder)
    # 16 steps, and the data of steps 6 to 9 left out: the next batch is that of step 21 of an undisturbed run.
    ((*place, step),) = checkpoints.extra(checkpoints.latest)["loader"]
    assert (tuple(place), step, checkpoints.latest) == (places[20][0], 16, 16)


@pytest.mark.slow
def test_going_back_is_the_same_every_time(poison, tiny, tmp_path, on_step, terminate, monkeypatch):
    config = replace(tiny, guard=replace(tiny.guard, then="rollback"))
    poison(7, 8, 9)
    run.pretrain(replace(config, out=str(tmp_path / "one")))
    make = session.make_train_step
    on_step(12, terminate)
    with pytest.raises(Interrupted):
        run.pretrain(replace(config, out=str(tmp_path / "two")))
    monkeypatch.setattr(session, "make_train_step", make)
    run.pretrain(replace(config, out=str(tmp_path / "two")))
    one, two = ([line["loss"] for line in of(tmp_path / name, "train")] for name in ("one", "two"))
    assert one == two and len(one) == 16


@pytest.mark.slow
def test_it_does_not_go_back_for_ever(bertjax, command, poison):
    poison(*range(7, 41))
    outcome = bertjax(*command, "--guard.then", "rollback")
    assert outcome.code == 2 and "Not rolled back, as the run has gone back 3 times already" in outcome.err
    assert "leave their data out" not in outcome.err


def test_without_a_checkpoint_there_is_nothing_to_go_back_to(bertjax, command, poison):
    poison(2, 3, 4)
    outcome = bertjax(*command, "--guard.then", "rollback")
    assert outcome.code == 2 and "there is no checkpoint before them" in outcome.err


@pytest.mark.parametrize(("option", "value"), [("consecutive", 0), ("spike", -1)])
def test_options_out_of_range(bertjax, command, option, value):
    outcome = bertjax(*command, f"--guard.{option}", value)
    assert outcome.code == 2 and f"{option}={value}" in outcome.err
