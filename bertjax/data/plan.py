"""Which spans of a shard become the pairs of an epoch: NSP (paper section 3.1 and appendix A.2) and SOP.

Follows create_instances_from_document of google-research/bert, by index arithmetic instead of lists of tokens.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from bertjax.data.blocks import Shard
from bertjax.data.rows import NO_LABEL, Sequences

MARKS = 3  # [CLS] and two [SEP]
IS_NEXT, RANDOM = 0, 1
IN_ORDER, SWAPPED = 0, 1


class Pairs(NamedTuple):
    """R pairs: A is tokens[a_start:a_stop] of the shard, B likewise, all i64[R]; label i64[R]."""

    a_start: np.ndarray
    a_stop: np.ndarray
    b_start: np.ndarray
    b_stop: np.ndarray
    label: np.ndarray


def next_sentence(shard: Shard, *, length: int, short_probability: float = 0.1, rng: np.random.Generator) -> Sequences:
    """NSP: all pairs of one pass over a shard of two or more documents, in order, each at most `length` with its marks.

    B is what follows A (label IS_NEXT) or comes from another document (RANDOM).
    """
    assert len(shard.document_starts) > 2, "a shard of one document has no negatives"
    spans = np.array(list(_spans(shard, length - MARKS, short_probability, rng)), np.int64)
    return _sequences(_truncate(Pairs(*spans.T), length - MARKS, rng))


def sentence_order(shard: Shard, *, length: int, short_probability: float = 0.1, rng: np.random.Generator) -> Sequences:
    """SOP (ALBERT, section 3.1): two consecutive segments, half of them SWAPPED; needs no second document.

    A segment of one sentence cannot be cut in two: it stands alone and has no label. (google-research/albert gives it
    a random partner, which makes its SOP a little of an NSP.)
    """
    spans = np.array(list(_consecutive(shard, length - MARKS, short_probability, rng)), np.int64)
    pairs = _truncate(Pairs(*spans.T), length - MARKS, rng)
    a_start, a_stop, b_start, b_stop, label = pairs
    swapped = label == SWAPPED
    return _sequences(
        Pairs(
            a_start=np.where(swapped, b_start, a_start),
            a_stop=np.where(swapped, b_stop, a_stop),
            b_start=np.where(swapped, a_start, b_start),
            b_stop=np.where(swapped, a_stop, b_stop),
            label=label,
        )
    )


def _sequences(pairs: Pairs) -> Sequences:
    """The sequences of pairs; where B is empty there is A alone."""
    starts = np.stack([pairs.a_start, pairs.b_start], 1).ravel()
    stops = np.stack([pairs.a_stop, pairs.b_stop], 1).ravel()
    some = stops > starts
    bounds = np.concatenate([[0], np.cumsum(some.reshape(-1, 2).sum(1))])
    return Sequences(starts[some], stops[some], bounds, pairs.label)


def _spans(
    shard: Shard, room: int, short_probability: float, rng: np.random.Generator
) -> Iterator[tuple[int, int, int, int, int]]:
    """Fields of Pairs before truncation."""
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


def _consecutive(
    shard: Shard, room: int, short_probability: float, rng: np.random.Generator
) -> Iterator[tuple[int, int, int, int, int]]:
    """Fields of Pairs before truncation and swapping; B is empty for a segment of one sentence."""
    tokens = shard.sentence_starts.tolist()
    draws = _draws(rng, columns=4)
    for at, last in pairwise(shard.document_starts.tolist()):
        while at < last:
            short, size, split, coin = next(draws)
            target = 2 + int(size * (room - 1)) if short < short_probability else room
            stop = bisect_left(tokens, tokens[at] + target, at + 1, last)
            if stop - at > 1:
                middle = at + 1 + int(split * (stop - at - 1))
                yield tokens[at], tokens[middle], tokens[middle], tokens[stop], SWAPPED if coin < 0.5 else IN_ORDER
            else:
                yield tokens[at], tokens[stop], tokens[stop], tokens[stop], NO_LABEL
            at = stop


def _draws(rng: np.random.Generator, columns: int = 6) -> Iterator[list[float]]:
    while True:
        yield from rng.random((1024, columns)).tolist()


def _truncate(rows: Pairs, room: int, rng: np.random.Generator) -> Pairs:
    """Cut pairs down to `room` tokens: one token at a time off the longer side, from its front or back at random."""
    a, b = rows.a_stop - rows.a_start, rows.b_stop - rows.b_start
    half = room // 2
    keep_a = np.minimum(a, np.maximum(room - b, room - half))
    keep_b = np.minimum(b, room - keep_a)
    front_a, front_b = rng.binomial(a - keep_a, 0.5), rng.binomial(b - keep_b, 0.5)
    a_start, b_start = rows.a_start + front_a, rows.b_start + front_b
    return Pairs(a_start, a_start + keep_a, b_start, b_start + keep_b, rows.label)
