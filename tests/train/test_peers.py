"""Processes that share a store, as threads here: they stop after the same step, and see who is lost."""

import random
import threading
import time

import pytest

from bertjax.train import peers
from bertjax.train.stop import REQUEST


class Store:
    """What jax's client does of the store of one run."""

    def __init__(self):
        self.kept, self.stands_still = {}, threading.Event()

    def key_value_set(self, name, text, allow_overwrite):
        assert allow_overwrite
        self._answer()
        self.kept[name] = text

    def key_value_dir_get(self, folder):
        self._answer()
        return [(name, text) for name, text in list(self.kept.items()) if name.startswith(folder)]

    def _answer(self):
        while self.stands_still.is_set():
            time.sleep(0.01)


class Ended(peers.Peers):
    """Keeps whom it thinks lost."""

    def __init__(self, *arguments):
        self.lost = []
        super().__init__(*arguments)

    def _end(self, lost, code=None):
        self.lost.append(lost if code is None else (lost, code))
        self._over.set()

    def _outlive_jax(self):
        pass  # the process is that of the tests


@pytest.fixture
def run(monkeypatch):
    """run(count, heartbeat) -> a store and those who share it."""
    monkeypatch.setattr(peers, "LOOK", 0.01)
    made, store = [], Store()

    def start(count, heartbeat=60):
        made.extend(Ended(store, number, count, heartbeat) for number in range(count))
        return store, made

    yield start
    store.stands_still.clear()
    for each in made:
        each.close()
    REQUEST.name = ""


@pytest.mark.parametrize("seed", range(5))
def test_all_stop_after_the_same_step_however_far_they_are(run, seed):
    _, made = run(3)
    begun, stopped = [0, 0, 0], {}

    def train(number):
        draw = random.Random(f"{seed} {number}")
        for step in range(1, 10_000):
            begun[number] = step
            while step > min(begun) + 2:  # as in collectives, nobody is much ahead
                time.sleep(0.001)
            time.sleep(draw.uniform(0, 0.004))
            if made[number].due():
                stopped[number] = step
                return

    threads = [threading.Thread(target=train, args=(number,), daemon=True) for number in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.05 + 0.02 * seed)
    REQUEST.name = "SIGTERM"
    for thread in threads:
        thread.join(30)
    assert len(stopped) == 3 and len(set(stopped.values())) == 1, stopped


def waited(true, seconds=30):
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.01)
    return true()


def test_who_gives_no_more_signs_is_lost_and_all_know(run):
    _, made = run(4, heartbeat=1)
    time.sleep(0.3)
    made[2]._over.set()
    assert waited(lambda: all(made[i].lost == [2] for i in (0, 1, 3))), [each.lost for each in made]
    assert not made[2].lost


def test_who_leaves_tells_with_which_code(run):
    _, made = run(3)
    made[1].leave(2)
    assert waited(lambda: made[0].lost == made[2].lost == [(1, 2)]), [each.lost for each in made]


def test_who_was_done_is_not_lost(run):
    _, made = run(2, heartbeat=1)
    made[1].close()
    time.sleep(2)
    assert not made[0].lost


def test_a_store_that_does_not_answer_is_a_lost_process_0(run):
    store, made = run(3, heartbeat=4)
    time.sleep(0.1)
    store.stands_still.set()
    assert waited(lambda: made[1].lost and made[2].lost)
    assert made[1].lost[0] == made[2].lost[0] == 0, [each.lost for each in made]
