"""Which sequences share a row: best fit, the longest first."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from bertjax.data.ragged import join_bounds


class Rows(NamedTuple):
    """R rows: row r has the sequences members[bounds[r] : bounds[r + 1]]."""

    members: np.ndarray  # i64[Q]
    bounds: np.ndarray  # i64[R + 1]

    @classmethod
    def joined(cls, parts: Sequence[Rows]) -> Rows:
        """Those of several lots of sequences as those of the lots joined."""
        shifts = np.cumsum([0, *(len(part.members) for part in parts[:-1])])
        members = [part.members + shift for part, shift in zip(parts, shifts, strict=True)]
        return cls(np.concatenate(members), join_bounds([part.bounds for part in parts]))


def one_each(count: int) -> Rows:
    """A row for each of `count` sequences."""
    return Rows(np.arange(count), np.arange(count + 1))


def most_sequences(length: int) -> int:
    """How many sequences a packed row of `length` tokens may hold: one for every 8 tokens."""
    return max(1, length // 8)


def sequences_in_row(length: int, *, packing: bool) -> int:
    """S: how many sequences a batch has room for in each of its rows."""
    return most_sequences(length) if packing else 1


def pack(sizes: np.ndarray, *, length: int, rng: np.random.Generator) -> Rows:
    """Rows of sequences of sizes i64[Q], at most `length` tokens and `most_sequences(length)` sequences in each.

    A sequence, the longest first and equals in random order, goes to the fullest row that has room for it.
    """
    most = most_sequences(length)
    order = rng.permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    full = int(np.searchsorted(-sizes[order], sizes.min() - length))  # so many have a row to themselves
    rows: list[list[int]] = []
    by_room: list[list[list[int]]] = [[] for _ in range(length + 1)]  # the open rows by the tokens they have room for
    rooms = 0  # bit n is set where by_room[n] has a row, so that the smallest room that will do is found at once
    for index, size in zip(order[full:].tolist(), sizes[order[full:]].tolist(), strict=True):
        fitting = rooms >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            row = by_room[room].pop()
            if not by_room[room]:
                rooms &= ~(1 << room)
        else:
            row, room = [], length
            rows.append(row)
        row.append(index)
        if len(row) < most and room > size:
            by_room[room - size].append(row)
            rooms |= 1 << (room - size)
    members = np.fromiter(chain.from_iterable(rows), np.int64, len(sizes) - full)
    counts = np.array([1] * full + [len(row) for row in rows], np.int64)
    return Rows(np.append(order[:full], members), np.append(0, np.cumsum(counts)))
