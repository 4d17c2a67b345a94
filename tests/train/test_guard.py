"""What counts as a spike, and that nothing poisons what is usual."""

import numpy as np
import pytest

from bertjax.train.guard import ENOUGH, Diverged, Guard, Watch


class Notes:
    """In the place of a Writer."""

    def __init__(self):
        self.told = []

    def note(self, step, what, about, text):
        self.told.append((step, what))


def watch(losses, *, guard=None, saved=None, settle_every=5):
    notes = Notes()
    watched = Watch(guard or Guard(), notes, lambda step, before: [[step]], saved or {})
    for number, loss in enumerate(losses, 1):
        watched.add(number, (np.float32(loss), np.float32(loss)), ((number - 1,),), ((number,),))
        if number % settle_every == 0:
            watched.settle()
    watched.settle()
    return watched, notes.told


def noisy(count, mean=5.0, seed=0):
    return (mean + 0.1 * np.random.default_rng(seed).standard_normal(count)).tolist()


def test_a_spike_is_told_once_there_is_something_usual():
    early, late = [*noisy(ENOUGH - 1), 50.0], [*noisy(ENOUGH), 50.0, *noisy(5)]
    assert watch(early)[1] == [] and watch(late)[1] == [(ENOUGH + 1, "spike")]
    assert watch(late, guard=Guard(spike=0))[1] == []


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_hides_no_spike(bad):
    losses = [*noisy(ENOUGH), bad, *noisy(3), bad, bad, 50.0]
    assert watch(losses)[1][-1] == (len(losses), "spike")
    assert [what for _, what in watch(losses)[1]] == ["skipped"] * 3 + ["spike"]


def test_a_spike_hides_no_other():
    losses = [*noisy(40), 500.0, *noisy(3), 8.0]
    assert watch(losses)[1] == [(41, "spike"), (45, "spike")]


def test_a_loss_that_stays_high_comes_to_be_usual():
    told = watch([*noisy(40), *noisy(200, 9.0)])[1]
    assert 1 < len(told) < 60 and told[-1][0] < 110


def test_no_spike_in_a_falling_loss_with_noise():
    for seed in range(20):
        falling = np.linspace(9, 3, 400) + 0.3 * np.random.default_rng(seed).standard_normal(400)
        assert watch(falling)[1] == []


def test_high_losses_running_are_a_failure_where_one_can_go_back():
    losses = [*noisy(50), 50.0, 60.0, 70.0, *noisy(3)]
    with pytest.raises(Diverged, match=r"far above the usual .* in 3 steps in a row \(51 to 53\)") as error:
        watch(losses, guard=Guard(then="rollback"))
    assert (error.value.first, error.value.last, error.value.after) == (51, 53, ((53,),))
    assert len(watch(losses)[1]) == 3  # without going back they are told


@pytest.mark.parametrize("every", [1, 7, 100])
def test_when_it_is_looked_at_changes_nothing(every):
    losses = [*noisy(60), np.nan, 50.0, *noisy(30), 50.0, np.nan, np.nan, *noisy(9)]
    watched, told = watch(losses, settle_every=every)
    assert told == watch(losses)[1] and watched.to_json() == watch(losses)[0].to_json()


def test_taken_up_again_it_judges_as_before():
    losses = [*noisy(60), np.nan, np.nan]
    saved = watch(losses)[0].to_json()
    assert watch([50.0], saved=saved)[1] == [(1, "spike")]
    with pytest.raises(Diverged, match=r"\(-1 to 1\)"):
        watch([np.nan], saved=saved)


@pytest.mark.parametrize("bad", [np.nan, 50.0])
def test_taken_up_again_with_another_guard_it_still_ends(bad):
    """More were bad already than are now allowed, or of a kind that was told only."""
    saved = watch([*noisy(60), *[bad] * 3], guard=Guard(consecutive=5))[0].to_json()
    with pytest.raises(Diverged, match="in 2 steps in a row"):
        watch([bad], saved=saved, guard=Guard(consecutive=2, then="rollback"))
