"""Which spans of a shard become the pairs of an epoch: NSP (paper section 3.1 and appendix A.2) and SOP.

Follows create_instances_from_document of google-research/bert, by index arithmetic instead of lists of tokens.
"""

from __future__ import annotations

from bisect import bisect_left
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
    return _sequences(_truncate(_next_or_random(shard, length - MARKS, short_probability, rng), length - MARKS, rng))


def sentence_order(shard: Shard, *, length: int, short_probability: float = 0.1, rng: np.random.Generator) -> Sequences:
    """SOP (ALBERT, section 3.1): two consecutive segments, half of them SWAPPED; needs no second document.

    A segment of one sentence cannot be cut in two: it stands alone and has no label. (google-research/albert gives it
    a random partner, which makes its SOP a little of an NSP.)
    """
    chunks = _chunks(shard, length - MARKS, short_probability, 1.0, rng)
    a_start, a_stop, b_stop = shard.sentence_starts[np.stack([chunks.first, chunks.middle, chunks.last])]
    label = np.where(chunks.middle == chunks.last, NO_LABEL, rng.integers(2, size=len(a_start)))
    a_start, a_stop, b_start, b_stop, label = _truncate(
        Pairs(a_start, a_stop, a_stop, b_stop, label), length - MARKS, rng
    )
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


def _next_or_random(shard: Shard, room: int, short_probability: float, rng: np.random.Generator) -> Pairs:
    """Pairs before truncation."""
    starts, documents = shard.sentence_starts, shard.document_starts
    first, middle, last, target, follows = _chunks(shard, room, short_probability, 0.5, rng)
    follows &= middle < last
    own = np.searchsorted(documents, first, side="right") - 1
    other = rng.integers(len(documents) - 2, size=len(first))
    other += other >= own
    begin, end = documents[other], documents[other + 1]
    begin += (rng.random(len(first)) * (end - begin)).astype(np.int64)
    wanted = starts[begin] + target - (starts[middle] - starts[first])
    end = np.clip(np.searchsorted(starts, wanted), begin + 1, end)
    return Pairs(
        a_start=starts[first],
        a_stop=starts[middle],
        b_start=starts[np.where(follows, middle, begin)],
        b_stop=starts[np.where(follows, last, end)],
        label=np.where(follows, IS_NEXT, RANDOM),
    )


class _Chunks(NamedTuple):
    """C chunks of sentences: A is first:middle, what follows it middle:last, all i64[C]."""

    first: np.ndarray
    middle: np.ndarray  # first < middle <= last
    last: np.ndarray
    target: np.ndarray  # tokens wanted
    follows: np.ndarray  # bool[C]: the next chunk begins at last, otherwise at middle


def _chunks(
    shard: Shard, room: int, short_probability: float, follow_probability: float, rng: np.random.Generator
) -> _Chunks:
    """One pass over the documents, each chunk as many sentences as reach its target, cut in two at random."""
    starts = shard.sentence_starts
    most = len(starts) - 1  # of chunks, as each has a sentence of its own
    short, size, split, coin = rng.random((4, most))
    # The original draws a target once a document; with few long documents that would be far from a tenth.
    target = np.where(short < short_probability, 2 + (size * (room - 1)).astype(np.int64), room)
    follows = coin < follow_probability
    ends = np.repeat(shard.document_starts[1:], np.diff(shard.document_starts))
    # The loop is over plain lists, and its usual step a look-up: where a chunk with the full target ends.
    full = np.minimum(np.searchsorted(starts, starts[:-1] + room), ends).tolist()
    tokens, targets, splits, whole = starts.tolist(), target.tolist(), split.tolist(), follows.tolist()
    firsts: list[int] = []
    middles: list[int] = []
    lasts: list[int] = []
    number = 0
    for at, end in pairwise(shard.document_starts.tolist()):
        while at < end:
            wanted = targets[number]
            last = full[at] if wanted == room else bisect_left(tokens, tokens[at] + wanted, at + 1, end)
            middle = at + 1 + int(splits[number] * (last - at - 1))
            firsts.append(at)
            middles.append(middle)
            lasts.append(last)
            at = last if whole[number] else middle  # the sentences that a random B takes the place of are put back
            number += 1
    first, middle, last = np.array([firsts, middles, lasts], np.int64)
    return _Chunks(first, middle, last, target[:number], follows[:number])


def _truncate(rows: Pairs, room: int, rng: np.random.Generator) -> Pairs:
    """Cut pairs down to `room` tokens: one token at a time off the longer side, from its front or back at random."""
    a, b = rows.a_stop - rows.a_start, rows.b_stop - rows.b_start
    half = room // 2
    keep_a = np.minimum(a, np.maximum(room - b, room - half))
    keep_b = np.minimum(b, room - keep_a)
    front_a, front_b = rng.binomial(a - keep_a, 0.5), rng.binomial(b - keep_b, 0.5)
    a_start, b_start = rows.a_start + front_a, rows.b_start + front_b
    return Pairs(a_start, a_start + keep_a, b_start, b_start + keep_b, rows.label)
