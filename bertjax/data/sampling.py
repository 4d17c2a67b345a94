"""The text that a vocabulary is learnt from: all of it, or a sample of a bounded size, the same in every run."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import NamedTuple

from bertjax.errors import DataError

# Characters of a line, so of a word: longer ones (hashes, noise) teach nothing, and SentencePiece's trainer compares
# what is repeated letter by letter, which takes quadratic time on one long line of the same words.
LONGEST = 1_000
NO_TEXT = "the corpus has no text; check that the files are the right ones and not empty"


class Texts(NamedTuple):
    """Texts, what gives their sentences, how many characters to learn from (0: as the kind has it), and processes."""

    texts: Iterable[str]
    sentences: Callable[[str], list[str]]
    most: int = 0
    workers: int = 0

    def sample(self, otherwise: int) -> list[str]:
        """A sample of the sentences for a trainer that holds all of it in memory."""
        return sample(chain.from_iterable(map(self.sentences, self.texts)), self.most or otherwise)


def whole(text: str) -> list[str]:
    """A text that is one sentence."""
    return [text]


def sample(texts: Iterable[str], most: int) -> list[str]:
    """Lines of the texts in their order, spaces made even; of more than `most` characters a random share that fits.

    Each line has the same chance: whenever the share kept so far is too large, half of it, drawn, is given up.
    """
    rng = random.Random(0)
    kept: list[tuple[float, str]] = []
    share, size = 1.0, 0
    for line in (line for text in texts for line in _lines(text)):
        draw = rng.random()
        if draw >= share or not (even := " ".join(line.split())):
            continue
        kept.append((draw, even))
        size += len(even)
        while size > most and len(kept) > 1:
            share /= 2
            kept = [(draw, text) for draw, text in kept if draw < share] or [min(kept)]
            size = sum(len(text) for _, text in kept)
    if not kept:
        raise DataError(NO_TEXT)
    return [text for _, text in kept]


def _lines(text: str) -> Iterator[str]:
    """A text, a long one in lines of at most LONGEST characters, without words that are longer."""
    if len(text) <= LONGEST:
        yield text
        return
    line: list[str] = []
    size = 0
    for word in text.split():
        if len(word) > LONGEST:
            continue
        if size + len(word) > LONGEST:
            yield " ".join(line)
            line, size = [], 0
        line.append(word)
        size += len(word) + 1
    yield " ".join(line)
