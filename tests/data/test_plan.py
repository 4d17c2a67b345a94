from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from bertjax.data.blocks import Shard
from bertjax.data.plan import (
    IN_ORDER,
    IS_NEXT,
    RANDOM,
    SWAPPED,
    Pairs,
    _next_or_random,
    _truncate,
    next_sentence,
    sentence_order,
)
from bertjax.data.rows import NO_LABEL


def make_shard(documents=40, sentences=60, longest=20, seed=0):
    """A shard whose tokens are their own indices."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, sentences + 1, documents)
    starts = np.concatenate([[0], np.cumsum(rng.integers(1, longest + 1, counts.sum()))])
    return Shard(np.arange(starts[-1], dtype=np.uint32), starts, np.concatenate([[0], np.cumsum(counts)]))


@pytest.fixture(scope="module")
def shard():
    return make_shard(documents=200)


def document_of(shard, token):
    return np.searchsorted(shard.sentence_starts[shard.document_starts], token, side="right") - 1


def raw_spans(shard, *, length=64, short_probability=0.1, seed=0):
    """Rows before truncation."""
    return _next_or_random(shard, length - 3, short_probability, np.random.default_rng(seed))


def test_label_0_is_next_and_1_is_another_document(shard):
    rows = raw_spans(shard)
    following = rows.label == IS_NEXT
    assert (IS_NEXT, RANDOM) == (0, 1)
    assert (rows.b_start[following] == rows.a_stop[following]).all()
    a, b = document_of(shard, rows.a_start), document_of(shard, rows.b_start)
    assert ((a == b) == following).all()
    assert (document_of(shard, rows.b_stop - 1) == b).all()
    assert (document_of(shard, rows.a_stop - 1) == a).all()


def test_half_are_next_where_a_chunk_can_be_split(shard):
    long = make_shard(documents=100, sentences=200, longest=6)
    assert raw_spans(long, short_probability=0).label.mean() == pytest.approx(0.5, abs=0.03)
    # A chunk of one sentence has no next: with sentences longer than the row there are random pairs only.
    starts = np.arange(0, 40_000, 100)
    single = Shard(np.arange(39_900), starts, np.array([0, 100, 200, 399]))
    assert (raw_spans(single, length=50).label == RANDOM).all()


def test_unused_sentences_are_put_back(shard):
    rows = raw_spans(shard)
    # All text is in an A, or in the B that continues it, once and in order.
    ends = np.where(rows.label == IS_NEXT, rows.b_stop, rows.a_stop)
    assert rows.a_start[0] == 0
    assert (rows.a_start[1:] == ends[:-1]).all()
    assert ends[-1] == len(shard.tokens)


def test_random_partners_are_spread_over_the_other_documents():
    shard = make_shard(documents=20, sentences=600)
    rows = raw_spans(shard)
    partners = document_of(shard, rows.b_start[rows.label == RANDOM])
    counts = np.bincount(partners, minlength=20) / (len(partners) / 20)
    assert counts.min() > 0.6 and counts.max() < 1.4
    two = raw_spans(make_shard(documents=2))
    assert set(two.label.tolist()) == {IS_NEXT, RANDOM}


def test_chunks_reach_their_target(shard):
    rows = raw_spans(shard, length=64, short_probability=0)
    size = rows.a_stop - rows.a_start + rows.b_stop - rows.b_start
    following = rows.label == IS_NEXT
    document_ends = shard.sentence_starts[shard.document_starts[1:]]
    inside = following & ~np.isin(rows.b_stop, document_ends)
    assert (size[inside] >= 61).all() and (size[inside] < 61 + 20).all()


@pytest.mark.parametrize("probability, share", [(0.0, 0.0), (0.1, 0.063), (1.0, 0.63)])
def test_a_tenth_are_short(probability, share):
    # A short target is drawn from 2 to 125: below 80 in 63% of the cases. Other rows are so short at the ends of
    # documents alone, of which there are few here.
    shard = make_shard(documents=4, sentences=9000)
    pairs = next_sentence(shard, length=128, short_probability=probability, rng=np.random.default_rng(0))
    assert (pairs.sizes - 3 < 80).mean() == pytest.approx(share, abs=0.1 * share + 0.005)


@pytest.mark.parametrize("length", [8, 32, 128])
def test_rows_fit_and_keep_both_sides(shard, length):
    pairs = next_sentence(shard, length=length, rng=np.random.default_rng(0))
    a, b = (pairs.stops - pairs.starts).reshape(-1, 2).T
    assert (pairs.bounds == np.arange(0, 2 * len(pairs) + 1, 2)).all() and len(pairs.labels) == len(pairs)
    assert (a >= 1).all() and (b >= 1).all()
    assert (a + b + 3 == pairs.sizes).all() and (pairs.sizes <= length).all()


def test_truncation_takes_from_the_longer_side_at_both_ends():
    count = 4000
    rows = Pairs(*(np.full(count, value) for value in (1000, 1040, 5000, 5010, IS_NEXT)))
    cut = _truncate(rows, 30, np.random.default_rng(0))
    assert (cut.b_start == 5000).all() and (cut.b_stop == 5010).all()
    assert (cut.a_stop - cut.a_start == 20).all()
    front = cut.a_start - 1000
    assert front.mean() == pytest.approx(10, abs=0.2)  # binomial(20, 1/2): standard deviation 2.2
    assert front.std() == pytest.approx(5**0.5, abs=0.15)
    both = _truncate(Pairs(*(np.full(1, value) for value in (0, 40, 100, 140, RANDOM))), 31, np.random.default_rng(0))
    assert (both.a_stop - both.a_start, both.b_stop - both.b_start) == (16, 15)  # the first token goes from B


@pytest.mark.parametrize("planner", [next_sentence, sentence_order])
def test_a_plan_is_a_function_of_its_generator(shard, planner):
    one, two, other = (planner(shard, length=64, rng=np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert all((array == vars(two)[name]).all() for name, array in vars(one).items())
    assert len(one) != len(other) or (one.stops != other.stops).any()


# -- sentence order -------------------------------------------------------------------------------------------------


def test_segments_follow_each_other_and_half_are_swapped():
    shard = make_shard(documents=100, sentences=200, longest=6)
    pairs = sentence_order(shard, length=64, rng=np.random.default_rng(0))
    assert (IN_ORDER, SWAPPED) == (0, 1)
    labelled = pairs.labels != NO_LABEL
    assert (np.diff(pairs.bounds) == np.where(labelled, 2, 1)).all() and labelled.mean() > 0.95
    first = pairs.bounds[:-1][labelled]
    assert (document_of(shard, pairs.starts[first]) == document_of(shard, pairs.starts[first + 1])).all()
    assert ((pairs.starts[first] > pairs.starts[first + 1]) == (pairs.labels[labelled] == SWAPPED)).all()
    count = int(labelled.sum())
    assert stats.binomtest(int((pairs.labels == SWAPPED).sum()), count).pvalue > 1e-4 and count > 600
    assert (pairs.sizes <= 64).all()


def test_an_order_needs_neither_a_second_document_nor_loses_text():
    lone = make_shard(documents=1, sentences=60, longest=5, seed=3)
    pairs = sentence_order(lone, length=512, short_probability=0, rng=np.random.default_rng(0))
    spans = sorted(zip(pairs.starts.tolist(), pairs.stops.tolist(), strict=True))
    assert spans[0][0] == 0 and spans[-1][1] == len(lone.tokens)
    assert all(a[1] == b[0] for a, b in pairwise(spans)), "nothing of so short a text is cut off"


def test_a_segment_of_one_sentence_has_no_label():
    starts = np.arange(0, 5_000, 100)
    single = Shard(np.arange(4_900), starts, np.array([0, 10, 49]))
    pairs = sentence_order(single, length=50, rng=np.random.default_rng(0))
    assert (pairs.labels == NO_LABEL).all() and len(pairs) == len(pairs.starts) == 49
    assert (pairs.sizes <= 50).all() and (pairs.stops > pairs.starts).all()
