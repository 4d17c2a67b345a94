"""Where the time of a run went."""

from types import SimpleNamespace

import pytest

from bertjax.train import spent as module
from bertjax.train.spent import Moment, Spent, shares

NOTHING = {"steps": 0, "start": 0, "compile": 0, "data": 0, "evaluate": 0, "save": 0, "lost": 0}


@pytest.fixture
def passes(monkeypatch):
    """A clock that stands still until it is told to go on; devices take as long as what they are to make says."""
    now = [100.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def go(seconds):
        now[0] += seconds

    monkeypatch.setattr(module.jax, "block_until_ready", lambda made: go(made or 0))
    return go


def test_each_second_is_of_one_part(passes):
    spent = Spent({}, since=88)
    passes(5)
    with spent.on("compile"):
        passes(20)
    with pytest.raises(KeyError), spent.on("save"):
        passes(3)
        raise KeyError
    assert spent.by_part() == {**NOTHING, "start": 12, "compile": 20, "save": 3, "steps": 5}
    assert spent.seconds() == 40 and spent.now() == Moment(128, 23, 0)


def test_what_devices_are_still_at_is_of_the_steps(passes):
    spent = Spent({})
    with spent.on("evaluate", made=2.0):
        passes(50)
    assert spent.by_part() == {**NOTHING, "evaluate": 50, "steps": 2}


@pytest.mark.parametrize(("asked", "waited"), [(None, 0), (False, 0), (True, 3)])
def test_devices_wait_for_data_that_come_when_all_is_done(asked, waited, passes):
    spent = Spent({}, since=100)
    with spent.waiting(asked if asked is None else SimpleNamespace(is_ready=lambda: asked)):
        passes(3)
    assert spent.by_part() == {**NOTHING, "data": waited, "steps": 3 - waited} and spent.now().waited == waited


def test_what_was_spent_before_counts_on(passes):
    spent = Spent({"steps": 10, "start": 1, "lost": 4}, since=98)
    passes(5)
    assert spent.by_part() == {**NOTHING, "steps": 15, "start": 3, "lost": 4} and spent.seconds() == 22


def test_shares():
    assert shares({"steps": 3, "save": 1}) == {"steps": "75%", "save": "25%"}
    assert shares({"steps": 0}) == {"steps": "0%"}
