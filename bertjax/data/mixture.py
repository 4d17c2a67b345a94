"""Batches to which several sources contribute, each its number of rows."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import NamedTuple

import numpy as np

from bertjax.data.rows import HostBatch
from bertjax.data.sources import START, Position, Source
from bertjax.errors import ConfigError

Places = tuple[Position, ...]  # one in each source


class Mixture(NamedTuple):
    """Sources of which every batch has all rows of a batch of each, one source's after the other's.

    Each walks through epochs of its own: a small one begins anew while a large one is in its first.
    """

    sources: tuple[Source, ...]

    @property
    def batch_size(self) -> int:
        """Rows of all sources."""
        return sum(source.batch_size for source in self.sources)

    def start(self, step: int = 0) -> Places:
        """The beginning of every source, at a step of the run."""
        return (START._replace(step=step),) * len(self.sources)

    def batch(self, places: Places, rows: np.ndarray | None = None) -> HostBatch:
        """The batch at these places, or of its rows those named i64[b], in ascending order."""
        rows = np.arange(self.batch_size) if rows is None else rows
        parts, first = [], 0
        for source, place in zip(self.sources, places, strict=True):
            own = rows[(rows >= first) & (rows < first + source.batch_size)] - first
            first += source.batch_size
            if len(own):
                parts.append(source.batch(place, own))
        return parts[0] if len(parts) == 1 else {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}

    def numbers(self, places: Places) -> list[list[int]]:
        """Of each source the numbers of what it gives to the batch at these places; none of them keeps anything."""
        return [copy(source).numbers(place).tolist() for source, place in zip(self.sources, places, strict=True)]


def shares(weights: Sequence[float], batch_size: int) -> list[int]:
    """Rows of each source in a batch: in proportion to the weights, the largest remainders rounded up."""
    exact = np.array(weights) / sum(weights) * batch_size
    rows = np.floor(exact).astype(int)
    rows[np.argsort(rows - exact, kind="stable")[: batch_size - rows.sum()]] += 1
    if not rows.all():
        raise ConfigError(
            f"weights {' '.join(f'{weight:g}' for weight in weights)} leave a folder of data without a row in a batch "
            f"of {batch_size}; raise the batch size or its weight"
        )
    return rows.tolist()
