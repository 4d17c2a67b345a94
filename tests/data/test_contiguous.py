import numpy as np
import pytest
from test_plan import document_of, make_shard

from bertjax.data.blocks import Shard
from bertjax.data.contiguous import doc_sentences, full_sentences, segments

PLANNERS = (full_sentences, doc_sentences, segments)


def plan(planner, shard, length=64, seed=0):
    return planner(shard, length=length, rng=np.random.default_rng(seed))


def spans(sequences, number):
    inside = slice(sequences.bounds[number], sequences.bounds[number + 1])
    return list(zip(sequences.starts[inside].tolist(), sequences.stops[inside].tolist(), strict=True))


@pytest.fixture(scope="module")
def shard():
    return make_shard(documents=100, sentences=30, longest=20)


@pytest.mark.parametrize("planner", PLANNERS)
@pytest.mark.parametrize("length", [8, 64])
def test_every_token_comes_once_and_rows_fit(planner, length, shard):
    """At 8 many sentences are longer than a row."""
    sequences = plan(planner, shard, length)
    covered = np.concatenate([np.arange(*span) for span in zip(sequences.starts, sequences.stops, strict=True)])
    assert (np.sort(covered) == np.arange(len(shard.tokens))).all()
    assert (sequences.sizes <= length).all() and (sequences.stops > sequences.starts).all()
    assert (np.diff(sequences.bounds) > 0).all() and sequences.bounds[-1] == len(sequences.starts)
    assert not len(sequences.labels)


@pytest.mark.parametrize("planner", PLANNERS)
def test_spans_stay_in_their_document(planner, shard):
    sequences = plan(planner, shard)
    assert (document_of(shard, sequences.starts) == document_of(shard, sequences.stops - 1)).all()
    assert (np.diff(sequences.bounds).max() > 1) == (planner is full_sentences)


@pytest.mark.parametrize("planner", PLANNERS[:2])
def test_sentences_are_whole_and_as_many_as_fit(planner, shard):
    sequences = plan(planner, shard)
    assert np.isin(sequences.starts, shard.sentence_starts).all()
    assert np.isin(sequences.stops, shard.sentence_starts).all()
    document_ends = shard.sentence_starts[shard.document_starts]
    for number in range(len(sequences) - 1):
        stop = spans(sequences, number)[-1][1]
        if stop in document_ends:
            if planner is doc_sentences:
                continue
            stop = spans(sequences, number + 1)[0][0]
            more = 1  # for the [SEP] between documents
        else:
            more = 0
        following = shard.sentence_starts[np.searchsorted(shard.sentence_starts, stop, side="right")] - stop
        assert sequences.sizes[number] + following + more > 64


def test_full_sentences_go_on_into_the_next_document_in_an_order_of_their_own(shard):
    orders = []
    for seed in (0, 1):
        sequences = plan(full_sentences, shard, seed=seed)
        documents = document_of(shard, sequences.starts)
        changes = documents[np.flatnonzero(np.diff(documents, prepend=-1))].tolist()
        assert sorted(changes) == [*range(100)], "each document is read in one piece"
        orders.append(changes)
    assert orders[0] != orders[1] and orders[0] != sorted(orders[0])


def test_full_sentences_fill_their_rows():
    shard = make_shard(documents=300, sentences=4, longest=10)
    fill = [plan(planner, shard, 128).sizes.mean() / 128 for planner in (full_sentences, doc_sentences)]
    assert fill[0] > 0.94 and fill[1] < 0.25


def test_all_segments_of_a_document_but_one_are_full():
    shard = Shard(np.arange(250), np.array([0, 100, 190, 250]), np.array([0, 2, 3]))
    seen = {tuple(plan(segments, shard, 64, seed).stops.tolist()) for seed in range(50)}
    assert seen == {  # 190 tokens are three rows of 62 and one of 4
        (4, 66, 128, 190, 250),
        (62, 66, 128, 190, 250),
        (62, 124, 128, 190, 250),
        (62, 124, 186, 190, 250),
    }


@pytest.mark.parametrize("planner", PLANNERS)
def test_one_document_is_enough(planner):
    lone = make_shard(documents=1, sentences=40)
    assert plan(planner, lone).sizes.sum() > len(lone.tokens)
