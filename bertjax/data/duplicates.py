"""Exact duplicates, found in 12 to 24 bytes of memory a text."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence


class Seen:
    """Which documents came before, by 64-bit hashes: of a billion, one is taken for another with odds of 1 to 36.

    Of more than `most` the later ones are not remembered.
    """

    def __init__(self, most: int | None = None) -> None:
        self._most = most
        self._table = array("Q", [0]) * 1024  # open addressing, 0 is free, filled to two thirds at most
        self._count = 0

    def new(self, document: Sequence[str]) -> bool:
        """Whether these lines are seen for the first time."""
        text = "\n".join(document).encode("utf-8", "surrogatepass")
        key = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") or 1
        if self._count == self._most:
            return not self._table[self._place(key)]
        if 3 * self._count >= 2 * len(self._table):
            old, self._table = self._table, array("Q", [0]) * (2 * len(self._table))
            for known in old:
                if known:
                    self._table[self._place(known)] = known
        place = self._place(key)
        if self._table[place]:
            return False
        self._table[place] = key
        self._count += 1
        return True

    def _place(self, key: int) -> int:
        """Where the key is, or the free place where it would be."""
        table, mask = self._table, len(self._table) - 1
        place = key & mask
        while table[place] not in (0, key):
            place = (place + 1) & mask
        return place
