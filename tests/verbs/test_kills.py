"""bench/kills.py in short: runs that are killed again and again are the run left alone."""

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

import kills


@pytest.fixture(scope="module")
def zygote(tmp_path_factory):
    made = kills.Zygote(tmp_path_factory.mktemp("children"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def runs(zygote, tmp_path_factory):
    return kills.prepared(zygote, tmp_path_factory.mktemp("kills") / "home")


def unseen(found, count, lost):
    assert (found["kills"], found["failed"], found["differences"]) == (count, 0, [])
    assert found["lost"] <= lost


@pytest.mark.late
@pytest.mark.parametrize(("name", "count"), [("pretrain", 14), ("finetune", 6)])
def test_killed_at_random_moments(zygote, runs, tmp_path, name, count):
    found = kills.kill(zygote, tmp_path, runs[name], count, random.Random(count))
    unseen(found, count, 2 * runs[name].save_every)


@pytest.mark.slow
def test_killed_in_every_step(zygote, runs, tmp_path):
    found = kills.every_step(zygote, tmp_path, runs["pretrain"], range(1, 31))
    unseen(found, 30, 4)
    assert found["epochs"] >= 3


@pytest.mark.slow
def test_where_saving_is_waited_for_a_kill_costs_one_interval(zygote, runs, tmp_path):
    unseen(kills.every_step(zygote, tmp_path, runs["pretrain"], range(3, 31, 3), sync=True), 10, 2)


@pytest.mark.slow
def test_the_comparison_sees_what_is_not_the_same(zygote, runs, tmp_path):
    one, two = (kills.Run((*runs["pretrain"].command, "--steps", "6", "--seed", seed), 5) for seed in "12")
    for name, run in (("one", one), ("two", two)):
        kills.done(kills.start(zygote, run, tmp_path / name))
    assert {"figures", "state", "batches"} <= set(kills.differences(tmp_path / "one", tmp_path / "two"))
