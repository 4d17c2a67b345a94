"""Sums over documents for report.json; a shard has one, and they add up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain

import numpy as np

from bertjax.data.encode import Encoded
from bertjax.data.meta import is_count

EMPTY_SENTENCES = "sentences without tokens (dropped)"
EMPTY_DOCUMENTS = "documents without tokens (dropped)"
BUCKETS = 32  # of a histogram: lengths of 1, 2 to 3, 4 to 7, ... tokens


@dataclass
class Tally:
    """White-space words, unknown tokens, what was dropped, and histograms of the tokens of sentences and documents."""

    words: int = 0
    unknown: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    sentence_lengths: list[int] = field(default_factory=lambda: [0] * BUCKETS)
    document_lengths: list[int] = field(default_factory=lambda: [0] * BUCKETS)

    def __post_init__(self) -> None:
        """Raises ValueError for what no sum is, as it may come from a file."""
        histograms = (self.sentence_lengths, self.document_lengths)
        if not isinstance(self.dropped, dict) or not all(isinstance(h, list) and len(h) == BUCKETS for h in histograms):
            raise ValueError("not the sums of a shard")
        if not all(map(is_count, (self.words, self.unknown, *self.dropped.values(), *chain(*histograms)))):
            raise ValueError("not the sums of a shard")

    @classmethod
    def of(cls, items: Iterable[Encoded], unk_id: int) -> Tally:
        """Over some documents, those without tokens among them."""
        items = list(items)
        documents = [item.document for item in items if len(item.document.tokens)]
        dropped = {
            EMPTY_SENTENCES: sum(item.dropped for item in items),
            EMPTY_DOCUMENTS: len(items) - len(documents),
        }
        return cls(
            words=sum(item.words for item in items),
            unknown=sum(int((document.tokens == unk_id).sum()) for document in documents),
            dropped={reason: count for reason, count in dropped.items() if count},
            sentence_lengths=_histogram([document.lengths for document in documents]),
            document_lengths=_histogram([np.array([len(document.tokens) for document in documents])]),
        )

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.words + other.words,
            self.unknown + other.unknown,
            dict(Counter(self.dropped) + Counter(other.dropped)),
            [a + b for a, b in zip(self.sentence_lengths, other.sentence_lengths, strict=True)],
            [a + b for a, b in zip(self.document_lengths, other.document_lengths, strict=True)],
        )


def _histogram(lengths: list[np.ndarray]) -> list[int]:
    if not lengths:
        return [0] * BUCKETS
    _, exponents = np.frexp(np.concatenate(lengths).astype(np.float64))
    return np.bincount(exponents - 1, minlength=BUCKETS).tolist()
