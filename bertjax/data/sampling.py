"""Text for the trainers that hold all of it in memory: a sample of a bounded size, the same in every run."""

from __future__ import annotations

import random
from collections.abc import Iterable

from bertjax.errors import DataError

LONGEST_WORD = 1_000  # characters without a space; longer ones (hashes, noise) teach nothing


def sample(texts: Iterable[str], most: int) -> list[str]:
    """The texts in their order, spaces made even; of more than `most` characters a random share that fits.

    Each text has the same chance: whenever the share kept so far is too large, half of it, drawn, is given up.
    """
    rng = random.Random(0)
    kept: list[tuple[float, str]] = []
    share, size = 1.0, 0
    for text in texts:
        draw = rng.random()
        if draw >= share:
            continue
        words = " ".join(word for word in text.split() if len(word) <= LONGEST_WORD)
        if words:
            kept.append((draw, words[:most]))
            size += len(kept[-1][1])
        while size > most:
            share /= 2
            kept = [(draw, text) for draw, text in kept if draw < share]
            size = sum(len(text) for _, text in kept)
    if not kept:
        raise DataError(
            "the corpus has no text to learn a vocabulary from; check that the files are the right ones and not empty"
        )
    return [text for _, text in kept]
