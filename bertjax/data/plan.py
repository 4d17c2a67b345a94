"""Which spans of a shard become the rows of an epoch: NSP pairs (paper section 3.1 and appendix A.2).

Follows create_instances_from_document of google-research/bert, by index arithmetic instead of lists of tokens.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from bertjax.data.blocks import Shard
from bertjax.data.masking import Vocab

MARKS = 3  # [CLS] and two [SEP]
IS_NEXT, RANDOM = 0, 1


class Rows(NamedTuple):
    """R pairs: A is tokens[a_start:a_stop] of the shard, B likewise, all i64[R]; label i64[R] IS_NEXT or RANDOM."""

    a_start: np.ndarray
    a_stop: np.ndarray
    b_start: np.ndarray
    b_stop: np.ndarray
    label: np.ndarray


def plan_pairs(shard: Shard, *, length: int, short_probability: float = 0.1, rng: np.random.Generator) -> Rows:
    """All pairs of one pass over a shard of two or more documents, in order, each at most `length` with its marks."""
    assert len(shard.document_starts) > 2, "a shard of one document has no negatives"
    assert length >= MARKS + 2
    spans = np.array(list(_spans(shard, length - MARKS, short_probability, rng)), np.int64)
    return _truncate(Rows(*spans.T), length - MARKS, rng)


def _spans(
    shard: Shard, room: int, short_probability: float, rng: np.random.Generator
) -> Iterator[tuple[int, int, int, int, int]]:
    """Fields of Rows before truncation."""
    tokens = shard.sentence_starts.tolist()  # plain lists: a loop over chunks is fastest without numpy scalars
    documents = shard.document_starts.tolist()
    others = len(documents) - 2
    draws = _draws(rng)
    for document, (at, last) in enumerate(pairwise(documents)):
        while at < last:
            short, size, split, coin, other, place = next(draws)
            # The original draws a target once a document; with few long documents that would be far from a tenth.
            target = 2 + int(size * (room - 1)) if short < short_probability else room
            stop = bisect_left(tokens, tokens[at] + target, at + 1, last)
            count = stop - at
            middle = at + 1 + int(split * (count - 1)) if count > 1 else stop
            if count > 1 and coin >= 0.5:
                yield tokens[at], tokens[middle], tokens[middle], tokens[stop], IS_NEXT
                at = stop
                continue
            chosen = int(other * others)
            chosen += chosen >= document
            first, end = documents[chosen], documents[chosen + 1]
            first += int(place * (end - first))
            wanted = target - (tokens[middle] - tokens[at])
            end = bisect_left(tokens, tokens[first] + wanted, first + 1, end)
            yield tokens[at], tokens[middle], tokens[first], tokens[end], RANDOM
            at = middle  # the sentences that B did not use are put back


def _draws(rng: np.random.Generator, columns: int = 6) -> Iterator[list[float]]:
    while True:
        yield from rng.random((1024, columns)).tolist()


def _truncate(rows: Rows, room: int, rng: np.random.Generator) -> Rows:
    """Cut pairs down to `room` tokens: one token at a time off the longer side, from its front or back at random."""
    a, b = rows.a_stop - rows.a_start, rows.b_stop - rows.b_start
    half = room // 2
    keep_a = np.minimum(a, np.maximum(room - b, room - half))
    keep_b = np.minimum(b, room - keep_a)
    front_a, front_b = rng.binomial(a - keep_a, 0.5), rng.binomial(b - keep_b, 0.5)
    a_start, b_start = rows.a_start + front_a, rows.b_start + front_b
    return Rows(a_start, a_start + keep_a, b_start, b_start + keep_b, rows.label)


def row_example(shard: Shard, rows: Rows, row: int, vocab: Vocab) -> dict[str, Any]:
    """One row as [CLS] A [SEP] B [SEP]: tokens i32[n], types i32[n] (0 up to the first [SEP], then 1), next_label."""
    a = shard.tokens[rows.a_start[row] : rows.a_stop[row]]
    b = shard.tokens[rows.b_start[row] : rows.b_stop[row]]
    tokens = np.empty(len(a) + len(b) + MARKS, np.int32)
    tokens[0], tokens[len(a) + 1], tokens[-1] = vocab.cls, vocab.sep, vocab.sep
    tokens[1 : len(a) + 1], tokens[len(a) + 2 : -1] = a, b
    types = np.zeros(len(tokens), np.int32)
    types[len(a) + 2 :] = 1
    return {"tokens": tokens, "types": types, "next_label": int(rows.label[row])}
