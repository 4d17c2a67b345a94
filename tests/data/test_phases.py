"""Phases: which batches come, and where a run goes on that was stopped in one, or between two."""

import numpy as np
import pytest

from bertjax.data.examples import ExampleSource
from bertjax.data.loader import Loader
from bertjax.data.mixture import Mixture
from bertjax.data.phases import Phase, Phases
from bertjax.data.sources import START

STEPS = (5, 3, 4)


def examples(batch_size, first):
    """A source whose examples are told apart by their one token; each epoch has three batches."""
    rows = [{"tokens": [first + i], "types": [0]} for i in range(3 * batch_size)]
    source = ExampleSource(rows, batch_size=batch_size, length=2, pad=0, shuffle=True, drop_last=True, seed=1)
    return Mixture((source,))


@pytest.fixture
def phases():
    return [Phase(steps, examples(size, 100 * size)) for steps, size in zip(STEPS, (2, 3, 1), strict=True)]


def tokens(batches, count):
    return [next(batches)["tokens"][:, 0].tolist() for _ in range(count)]


@pytest.fixture
def undisturbed(phases):
    """What each phase's source gives from its start."""
    found = []
    for phase in phases:
        loader = Loader(phase.mixture)
        found += tokens(loader, phase.steps)
        loader.close()
    return found


def test_each_phase_gives_its_steps_from_the_start_of_its_source(phases, undisturbed):
    batches = Phases(phases, done=0, places=(START,), workers=0)
    assert tokens(batches, sum(STEPS)) == undisturbed
    assert [len(row) for row in undisturbed] == list(np.repeat([2, 3, 1], STEPS))
    batches.close()


@pytest.mark.parametrize("done", range(sum(STEPS)))
def test_a_run_stopped_after_any_step_goes_on_with_the_same_batches(phases, undisturbed, done):
    first = Phases(phases, done=0, places=(START,), workers=0)
    tokens(first, done)
    places = first.places
    first.close()
    second = Phases(phases, done=done, places=places, workers=0)
    assert tokens(second, sum(STEPS) - done) == undisturbed[done:]
    second.close()


@pytest.mark.parametrize("done", np.cumsum(STEPS)[:-1])
def test_between_two_phases_the_places_are_those_of_the_next_one(phases, undisturbed, done):
    batches = Phases(phases, done=0, places=(START,), workers=0)
    tokens(batches, done)
    assert batches.places == (START._replace(step=done),)
    (examples,) = batches.numbers(done + 1, batches.places)
    later = Phases(phases, done=done, places=(START._replace(batch=1, step=done),), workers=0)  # as a rollback does
    assert tokens(later, 2) == undisturbed[done + 1 : done + 3] and len(examples) == len(undisturbed[done])
    batches.close()
    later.close()


def test_at_the_end_the_position_is_that_of_the_last_phase(phases):
    batches = Phases(phases, done=0, places=(START,), workers=0)
    tokens(batches, sum(STEPS))
    epoch, rest = divmod(STEPS[-1], 3)
    assert batches.places == (START._replace(epoch=epoch, batch=rest, step=sum(STEPS)),)
    again = Phases(phases, done=sum(STEPS), places=batches.places, workers=0)
    assert again.places == batches.places
    batches.close()
    again.close()
