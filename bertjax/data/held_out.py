"""Which documents are held out."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Iterator

from bertjax.data.encode import Raw


def split(documents: Iterable[list[str]], held_out: float, seed: int) -> Iterator[Raw]:
    """("train" or "valid", document): each draws a number from its index, and draws below `held_out` are valid.

    The three lowest draws wait until the end, when it is known whether the corpus has documents enough to hold out.
    """
    waiting: list[tuple[float, int, list[str]]] = []  # a heap, highest draw first
    train = valid = 0
    for index, document in enumerate(documents):
        heapq.heappush(waiting, (-_draw(seed, index), index, document))
        if len(waiting) > 3:
            negative, _, document = heapq.heappop(waiting)
            held = -negative < held_out and train > valid + 2
            train, valid = train + (not held), valid + held
            yield "valid" if held else "train", document
    enough = held_out > 0 and train + valid + len(waiting) >= 4
    for rank, (_, _, document) in enumerate(sorted(waiting, reverse=True)):
        yield "valid" if enough and rank < 2 else "train", document


def _draw(seed: int, index: int) -> float:
    digest = hashlib.blake2b(f"{seed}:{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
