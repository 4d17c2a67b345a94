"""Which spans of a shard become the sequences of an epoch where no sentence objective asks for pairs.

FULL-SENTENCES and DOC-SENTENCES of RoBERTa (Liu et al. 2019, section 4.2), and documents cut to the token.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise

import numpy as np

from bertjax.data.blocks import Shard
from bertjax.data.ragged import ranges
from bertjax.data.rows import Sequences

MARKS = 2  # [CLS] and [SEP]


def full_sentences(shard: Shard, *, length: int, rng: np.random.Generator) -> Sequences:
    """As many whole sentences as fit, on into the next document, with a [SEP] where one ends.

    The documents come in another order each time. A sentence longer than a row is cut to pieces of a row.
    """
    starts, documents = _pieces(shard, length - MARKS)
    spans: list[tuple[int, int]] = []
    bounds = [0]
    left = length - 1
    for document in rng.permutation(len(documents) - 1).tolist():
        at, last = documents[document], documents[document + 1]
        while at < last:
            stop = bisect_right(starts, starts[at] + left - 1, at, last + 1) - 1
            if stop > at:
                spans.append((starts[at], starts[stop]))
                left -= starts[stop] - starts[at] + 1
                at = stop
            if at < last:
                bounds.append(len(spans))
                left = length - 1
    bounds.append(len(spans))
    firsts, stops = np.array(spans, np.int64).T
    return Sequences(firsts, stops, np.array(bounds), np.empty(0, np.int64))


def doc_sentences(shard: Shard, *, length: int, rng: np.random.Generator) -> Sequences:
    """As many whole sentences of one document as fit. A sentence longer than a row is cut to pieces of a row.

    They are the same each time, as in the original: from another start, rows of whole sentences soon fall in step.
    """
    starts, documents = _pieces(shard, length - MARKS)
    cuts = []
    for at, last in pairwise(documents):
        while at < last:
            stop = bisect_right(starts, starts[at] + length - MARKS, at, last + 1) - 1
            cuts.append((starts[at], starts[stop]))
            at = stop
    return Sequences.single(*np.array(cuts, np.int64).T)


def segments(shard: Shard, *, length: int, rng: np.random.Generator) -> Sequences:
    """Each document cut into full rows and one of what is left, which is any of them."""
    room = length - MARKS
    bounds = shard.sentence_starts[shard.document_starts]
    counts = -(-np.diff(bounds) // room)
    number = ranges(0, counts)
    lacking = np.where(number >= np.repeat(rng.integers(counts), counts), np.repeat(-np.diff(bounds) % room, counts), 0)
    stops = np.repeat(bounds[:-1], counts) + (number + 1) * room - lacking
    return Sequences.single(np.append(bounds[0], stops[:-1]), stops)


def _pieces(shard: Shard, room: int) -> tuple[list[int], list[int]]:
    """Sentences, those of over `room` tokens cut: where each starts, and with which each document begins.

    Both end with one past the last.
    """
    lengths = np.diff(shard.sentence_starts)
    counts = -(-lengths // room)
    before = np.concatenate([[0], np.cumsum(counts)])
    starts = np.repeat(shard.sentence_starts[:-1], counts) + ranges(0, counts) * room
    return [*starts.tolist(), int(shard.sentence_starts[-1])], before[shard.document_starts].tolist()
