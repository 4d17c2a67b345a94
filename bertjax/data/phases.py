"""Length phases: batches of several sources one after the other (BERT: 90% of the steps at 128 tokens, 10% at 512)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from bertjax.data.loader import Loader
from bertjax.data.sources import START, HostBatch, Position, Source


class Phase(NamedTuple):
    """So many steps with the batches of one source, from its start."""

    steps: int
    source: Source


class Phases:
    """The batches of all phases, from the step after `done` on; `position` is where its phase stood after that step.

    A phase begins at the start of its source, wherever the one before it ended: what a run saves stays the position
    in one source, as the number of steps tells which.
    """

    def __init__(self, phases: Sequence[Phase], *, done: int, position: Position, workers: int) -> None:
        self._phases, self._ends, self._workers = phases, list(accumulate(phase.steps for phase in phases)), workers
        self._done = done
        self._at = next((i for i, end in enumerate(self._ends) if done < end), len(phases) - 1)
        begins = done == self._ends[self._at] - phases[self._at].steps
        self._loader = self._open(START._replace(step=done) if begins else position)

    def _open(self, position: Position) -> Loader:
        return Loader(self._phases[self._at].source, position, workers=self._workers)

    @property
    def position(self) -> Position:
        """That of the next batch in the source that the last one came from."""
        return self._loader.position

    def __next__(self) -> HostBatch:
        if self._done == self._ends[self._at] and self._at + 1 < len(self._phases):
            self._loader.close()
            self._at += 1
            self._loader = self._open(START._replace(step=self._done))
        self._done += 1
        return next(self._loader)

    def close(self) -> None:
        """Stop the workers."""
        self._loader.close()
