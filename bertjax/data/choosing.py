"""Which tokens of a batch of rows are to be predicted: single ones, or spans of whole words.

Places are indices into the batch read row by row. Every row is chosen from by its own scores, so what is chosen in it
does not depend on the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bertjax.data.draws import uniform
from bertjax.data.ragged import ranges

LAST = np.uint64(2**64 - 1)
RANK = np.uint64(2**20 - 1)  # low bits of a score that give way to the rank of the word that has it


def tokens(text: np.ndarray, budgets: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Places i64[K], sorted, of the budgets[b] tokens of text bool[B,L] in row b with the lowest scores u64[B,L].

    BERT (section 3.1; create_pretraining_data.py, create_masked_lm_predictions).
    """
    scores = np.where(text, scores, LAST)
    limit = np.sort(scores, axis=1)[np.arange(len(scores)), np.minimum(budgets, text.shape[1]) - 1]
    return np.flatnonzero(text & (scores <= limit[:, None]))


class Words(NamedTuple):
    """W words of a batch, in order."""

    places: np.ndarray  # i64[W], of their first tokens
    sizes: np.ndarray  # i64[W], in tokens
    first: np.ndarray  # bool[W], whether a mark or padding comes before it
    shape: tuple[int, ...]  # (B, L)

    @classmethod
    def of(cls, text: np.ndarray, starts: np.ndarray) -> Words:
        """Words of text bool[B,L] by the tokens that start one, bool[B,L]; a text may begin within a word."""
        first = text.copy()
        first[:, 1:] &= ~text[:, :-1]
        begins = text & (starts | first)
        edges = np.flatnonzero(begins | ~text)
        words = begins.reshape(-1)[edges]
        places = edges[words]
        return cls(places, np.diff(edges, append=text.size)[words], first.reshape(-1)[places], text.shape)


def spans(
    words: Words, budgets: np.ndarray, scores: np.ndarray, draws: np.ndarray, lengths: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Places i64[K], sorted, of spans of 1, 2, .. whole words with the probabilities `lengths`, never across marks.

    Of each place, also the place at which its span begins. The rows are cut into spans, their lengths by draws
    u64[B,L], then spans are taken by the scores u64[B,L] of their first tokens: so long ones are as likely to be taken
    as short ones, and every word as likely as any other. Of a span that would overflow the budget i64[B] of its row the
    first words are taken that fit, and then the spans that still fit.
    """
    rows = words.places // words.shape[1]
    counts = np.bincount(rows, minlength=words.shape[0])
    ranks = ranges(0, counts)  # of each word in its row
    begins = words.first | _cuts(draws, lengths, rows, ranks)
    span = np.cumsum(begins) - 1  # of each word
    owners = words.places[begins][span]
    before = np.cumsum(words.sizes) - words.sizes
    reach = before + words.sizes - before[begins][span]  # tokens of the span up to the end of the word

    # One row of the batch a row, one of its words a column, in the order in which they are to be taken.
    width = np.arange(max(1, counts.max()), dtype=np.uint64)
    order = np.tile((LAST & ~RANK) | width, (len(counts), 1))
    order[rows, ranks] = (scores.reshape(-1)[owners] & ~RANK) | ranks.astype(np.uint64)
    order = (np.sort(order, axis=1) & RANK).astype(np.int64)
    sizes, reaches, taken = np.zeros((3, *order.shape), np.int64)
    sizes[rows, ranks], reaches[rows, ranks] = words.sizes, reach
    fit = _fit(np.take_along_axis(sizes, order, 1), np.take_along_axis(reaches, order, 1), budgets)
    np.put_along_axis(taken, order, fit, 1)
    chosen = taken[rows, ranks] > 0
    sizes = words.sizes[chosen]
    return ranges(words.places[chosen], sizes), np.repeat(owners[chosen], sizes)


def _cuts(draws: np.ndarray, lengths: Sequence[float], rows: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """bool[W]: whether a word begins a span, where the lengths of the spans of a row are drawn one after the other."""
    if len(lengths) == 1:
        return np.ones(len(rows), bool)
    steps = np.cumsum(lengths)
    cuts = np.cumsum(np.searchsorted(steps, uniform(draws) * steps[-1], side="right") + 1, axis=1)
    begins = np.zeros((len(draws), draws.shape[1] + len(lengths)), bool)
    begins[:, 0] = True
    np.put_along_axis(begins, np.minimum(cuts, begins.shape[1] - 1), True, 1)
    return begins[rows, ranks]


def _fit(sizes: np.ndarray, reaches: np.ndarray, budgets: np.ndarray) -> np.ndarray:
    """bool[B,W]: which words are taken, one after the other, of sizes and reaches i64[B,W] (0 where there is none).

    In each round all words up to the first that overflows what is left; after it only such are tried as would fit.
    """
    taken = np.zeros(sizes.shape, bool)
    left = budgets[:, None].copy()
    while True:
        fits = (sizes > 0) & (reaches <= left) & ~taken
        tokens = np.where(fits, sizes, 0)
        now = fits & (np.cumsum(tokens, axis=1) <= left)
        if not now.any():
            return taken
        taken |= now
        left -= np.where(now, sizes, 0).sum(1, keepdims=True)
