"""Lists of different lengths, laid out one after the other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def ranges(starts: np.ndarray | int, counts: np.ndarray) -> np.ndarray:
    """starts[i], starts[i] + 1, .. starts[i] + counts[i] - 1 for every i, joined: i64. One start may do for all."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - ends + counts, counts)


def join_bounds(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Bounds i64[N + 1] of what follows one another, each part's from 0 to its end."""
    return np.concatenate([[0], np.cumsum(np.concatenate([np.diff(part) for part in parts]))])
