"""Which documents are held out."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Iterator

from bertjax.data.encode import Raw


def split(documents: Iterable[list[str]], held_out: float, seed: int) -> Iterator[Raw]:
    """("train" or "valid", document): each draws a number from its index, and draws below `held_out` are valid.

    The three lowest draws wait until the end, when it is known whether the corpus has documents enough to hold out. Of
    fewer than four the last lines of each are held out.
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
    if train + valid + len(waiting) < 4:
        yield from _lines(sorted((index, document) for _, index, document in waiting), held_out)
        return
    for rank, (_, _, document) in enumerate(sorted(waiting, reverse=True)):
        yield "valid" if held_out > 0 and rank < 2 else "train", document


def _lines(documents: list[tuple[int, list[str]]], held_out: float) -> Iterator[Raw]:
    """Each document cut in two, if all have the two lines it takes."""
    if not held_out or any(len(document) < 2 for _, document in documents):
        yield from (("train", document) for _, document in documents)
        return
    for _, document in documents:
        last = len(document) - max(1, round(held_out * len(document)))
        yield "train", document[:last]
        yield "valid", document[last:]


def _draw(seed: int, index: int) -> float:
    digest = hashlib.blake2b(f"{seed}:{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
