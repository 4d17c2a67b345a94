"""Spans of whole words: their lengths, their bounds, and the budget, against a word-by-word second implementation."""

import numpy as np
import pytest
from scipy import stats

from bertjax.data.choosing import Words, spans
from bertjax.data.draws import draw
from bertjax.data.masking import LENGTHS, NGRAMS, SPANS

CHANCE = 1e-4


def taken(words, budget, lengths, key=0):
    """Spans taken in a batch of rows with one budget: [(begin of the span, its places)]."""
    rows, length = words.shape
    keys = (np.arange(rows) + key).astype(np.uint64)[:, None]
    scores, draws = (draw(keys, purpose, np.arange(length)) for purpose in (0, 1))
    places, owners = spans(words, np.full(rows, budget), scores, draws, lengths)
    assert (np.diff(places) > 0).all()
    order = np.argsort(owners, stable=True)
    names, begins = np.unique(owners[order], return_index=True)
    parts = np.split(places[order], begins[1:]) if len(names) else []
    return [(owner, part.tolist()) for owner, part in zip(names.tolist(), parts, strict=True)]


def words_of(text, starts):
    return Words.of(np.array([text], bool), np.array([starts], bool))


@pytest.mark.parametrize("lengths, mean", [(NGRAMS, 18 / 11), (SPANS, 3.797)])  # SpanBERT, section 3.1: 3.8
def test_lengths_of_spans(lengths, mean):
    """p ~ 1/n up to 3 words, geometric up to 10; where all is taken none is shortened but the last of each row."""
    text, starts = np.ones((500, 512), bool), np.random.default_rng(0).random((500, 512)) < 0.75
    seen = np.zeros(len(lengths))
    words = Words.of(text, starts)
    begins = np.zeros(words.places.max() + 1, bool)
    begins[words.places] = True
    for _, places in taken(words, 512, lengths):
        if (places[-1] + 1) % 512:
            seen[begins[places].sum() - 1] += 1
    assert stats.chisquare(seen, np.array(lengths) / sum(lengths) * seen.sum()).pvalue > CHANCE
    assert (seen * np.arange(1, len(seen) + 1)).sum() / seen.sum() == pytest.approx(mean, rel=0.02)


def test_words_and_spans_end_at_marks():
    # [CLS] ##b c d e [SEP] ##f g [SEP]: a text may begin within a word
    words = words_of([0, 1, 1, 1, 1, 0, 1, 1, 0], [0, 0, 1, 1, 1, 0, 0, 1, 0])
    assert (words.places.tolist(), words.sizes.tolist()) == ([1, 2, 3, 4, 6, 7], [1] * 6)
    assert words.first.tolist() == [True, False, False, False, True, False]
    for key in range(20):
        found = taken(words, 9, SPANS, key)
        assert sum(len(places) for _, places in found) == 6
        assert all(places[-1] <= 4 or places[0] >= 6 for _, places in found)


def test_words_of_several_tokens_and_several_rows():
    text = np.array([[0, 1, 1, 1, 0, 0], [1, 1, 0, 1, 1, 1]], bool)
    starts = np.array([[0, 1, 0, 1, 0, 1], [0, 0, 0, 1, 0, 0]], bool)
    words = Words.of(text, starts)
    assert (words.places.tolist(), words.sizes.tolist()) == ([1, 3, 6, 9], [2, 1, 2, 3])
    nothing = words_of([0, 0], [1, 1])
    assert not len(nothing.places) and taken(nothing, 3, SPANS) == []


def one_after_the_other(sizes, begins, order, budget):
    """Which words are taken: each span in its turn, as many of its first words as fit."""
    found = []
    for begin in order:
        word = begin
        while word < len(sizes) and (word == begin or word not in begins) and sizes[word] <= budget:
            found.append(word)
            budget -= sizes[word]
            word += 1
    return sorted(found)


@pytest.mark.parametrize("kind", LENGTHS)
def test_spans_are_taken_as_if_one_after_the_other(kind):
    rng = np.random.default_rng(0)
    text, starts = np.ones((200, 40), bool), rng.random((200, 40)) < 0.5
    words = Words.of(text, starts)
    keys = np.arange(200, dtype=np.uint64)[:, None]
    scores, draws = (draw(keys, purpose, np.arange(40)) for purpose in (0, 1))
    everything = spans(words, np.full(200, 40), scores, draws, LENGTHS[kind])
    budgets = rng.integers(1, 25, 200)
    places, owners = spans(words, budgets, scores, draws, LENGTHS[kind])
    for row, budget in enumerate(budgets.tolist()):
        mine = words.places // 40 == row
        firsts, sizes = words.places[mine], words.sizes[mine].tolist()
        begins = np.searchsorted(firsts, np.unique(everything[1][everything[1] // 40 == row])).tolist()
        order = sorted(begins, key=lambda word: scores.reshape(-1)[firsts[word]])
        chosen = one_after_the_other(sizes, set(begins), order, budget)
        expected = [place for word in chosen for place in range(firsts[word], firsts[word] + sizes[word])]
        assert places[places // 40 == row].tolist() == expected
    assert set(owners.tolist()) <= set(everything[1].tolist())
