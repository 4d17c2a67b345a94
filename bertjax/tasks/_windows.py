"""Texts longer than a row: overlapping windows, and which of them sees most around each token (BERT, run_squad.py)."""

from typing import NamedTuple

import numpy as np


class Window(NamedTuple):
    """Tokens `begin` to before `end` of a text."""

    begin: int
    end: int


def windows(count: int, *, room: int, stride: int) -> list[Window]:
    """Windows of at most `room` tokens over `count`, a `stride` apart, or half a window where that is less."""
    step = min(stride, max(1, room // 2))
    begins = range(0, max(1, count - room + step), step)
    return [Window(begin, min(begin + room, count)) for begin in begins]


def most_context(found: list[Window], count: int) -> np.ndarray:
    """The number of the window, for each of `count` tokens, in which it is farthest from both ends."""
    best, scores = np.zeros(count, np.int32), np.full(count, -np.inf)
    for number, (begin, end) in enumerate(found):
        inside = np.arange(end - begin)
        score = np.minimum(inside, inside[::-1]) + 0.01 * (end - begin)
        better = score > scores[begin:end]
        best[begin:end][better] = number
        scores[begin:end][better] = score[better]
    return best
