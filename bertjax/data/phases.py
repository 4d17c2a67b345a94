"""Length phases: batches of several mixtures one after the other (BERT: 90% of the steps at 128 tokens, 10% at 512)."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from bertjax.data.loader import Loader
from bertjax.data.mixture import Mixture, Places
from bertjax.data.rows import HostBatch


class Phase(NamedTuple):
    """So many steps with the batches of one mixture of sources, from their start."""

    steps: int
    mixture: Mixture
    rows: np.ndarray | None = None  # i64[b], of each batch those that this host is to have; without them all


def phase_after(done: int, ends: Sequence[int]) -> int:
    """Which phase, of those that end after so many steps, has the step after `done`; the last one where all is done."""
    return min(bisect(ends, done), len(ends) - 1)


class Phases:
    """The batches of all phases, from the step after `done` on, which stands at `places` in its phase.

    A phase begins at the start of its sources, wherever the one before it ended: what a run saves stays the places in
    one mixture, as the number of steps tells which.
    """

    def __init__(self, phases: Sequence[Phase], *, done: int, places: Places | None, workers: int) -> None:
        self._phases, self._ends, self._workers = phases, list(accumulate(phase.steps for phase in phases)), workers
        self._done = done
        self._at = phase_after(done, self._ends)
        self._loader = self._open(places or self._phases[self._at].mixture.start(done))

    def _open(self, places: Places) -> Loader:
        phase = self._phases[self._at]
        return Loader(phase.mixture, places, rows=phase.rows, workers=self._workers)

    @property
    def places(self) -> Places:
        """Those of the next batch, in the mixture that it comes from."""
        after = phase_after(self._done, self._ends)
        return self._loader.places if after == self._at else self._phases[after].mixture.start(self._done)

    def numbers(self, step: int, before: Places) -> list[list[int]]:
        """Of each source the numbers of what it gave to the batch of a step, by the `places` before it."""
        return self._phases[phase_after(step - 1, self._ends)].mixture.numbers(before)

    def __next__(self) -> HostBatch:
        if phase_after(self._done, self._ends) != self._at:
            places = self.places
            self._loader.close()
            self._at += 1
            self._loader = self._open(places)
        self._done += 1
        return next(self._loader)

    def close(self) -> None:
        """Stop the workers."""
        self._loader.close()
