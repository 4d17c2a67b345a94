from dataclasses import replace

import numpy as np
import pytest

from bertjax.data.masking import Vocab
from bertjax.data.packing import Rows
from bertjax.data.rows import NO_LABEL, Sequences, row_batch

VOCAB = Vocab(size=10**9, pad=9, unk=1, cls=2, sep=3, mask=4)
TEXT = np.arange(100, dtype=np.uint16)
PAIRS = Sequences(
    starts=np.array([10, 40, 60, 20, 70]),
    stops=np.array([13, 42, 64, 21, 72]),
    bounds=np.array([0, 2, 3, 5]),
    labels=np.array([1, NO_LABEL, 0]),
)


def test_sizes_count_the_marks():
    assert len(PAIRS) == 3 and PAIRS.sizes.tolist() == [8, 6, 6]
    assert Sequences.single(np.array([3, 9]), np.array([5, 10])).sizes.tolist() == [4, 3]


def batch_of(*rows, length=12, most=4, sequences=PAIRS):
    """A batch of rows, each a list of sequences."""
    bounds = np.cumsum([0, *map(len, rows)])
    made = Rows(np.concatenate(rows), bounds)
    return row_batch(TEXT, sequences, made, np.arange(len(rows)), length=length, most=most, vocab=VOCAB)


def test_a_pair_as_a_row():
    batch = batch_of([0], length=10, most=1)
    assert batch["tokens"].tolist() == [[2, 10, 11, 12, 3, 40, 41, 3, 9, 9]]
    assert batch["types"].tolist() == [[0, 0, 0, 0, 0, 1, 1, 1, 0, 0]]
    assert batch["sequence"].tolist() == [[1] * 8 + [0, 0]] and batch["positions"].tolist() == [[*range(8), 0, 0]]
    one = [batch[name].tolist() for name in ("first_tokens", "next_labels", "next_weights")]
    assert one == [[[0]], [[1]], [[1]]]
    kinds = {name: array.dtype.name for name, array in batch.items()}
    assert kinds.pop("next_weights") == "float32" and set(kinds.values()) == {"int32"}


def test_several_sequences_in_a_row():
    batch = batch_of([0], [2, 1])
    assert batch["tokens"].tolist()[1] == [2, 20, 3, 70, 71, 3, 2, 60, 61, 62, 63, 3]
    assert batch["types"].tolist()[1] == [0, 0, 0, 1, 1, 1, *[0] * 6]
    assert batch["sequence"].tolist()[1] == [1] * 6 + [2] * 6
    assert batch["positions"].tolist()[1] == [*range(6), *range(6)]
    assert batch["first_tokens"].tolist() == [[0] * 4, [0, 6, 0, 0]]
    assert batch["next_labels"].tolist() == [[1, 0, 0, 0], [0] * 4]
    assert batch["next_weights"].tolist() == [[1, 0, 0, 0], [1, 0, 0, 0]]
    again = batch_of([0])
    assert all((again[name] == batch[name][:1]).all() for name in batch), "a row does not depend on the others"


def test_without_a_sentence_objective_there_are_neither_types_nor_labels():
    batch = batch_of([0], sequences=replace(PAIRS, labels=np.empty(0, np.int64)))
    assert batch["tokens"].tolist() == [[2, 10, 11, 12, 3, 40, 41, 3, *[9] * 4]] and not batch["types"].any()
    assert batch.keys() == {"tokens", "types", "sequence", "positions", "first_tokens"}


def test_spans_at_the_ends_of_the_text():
    both = Sequences.single(np.array([0, 98]), np.array([2, 100]))
    assert batch_of([0], [1], sequences=both, length=4)["tokens"].tolist() == [[2, 0, 1, 3], [2, 98, 99, 3]]


def test_rows_that_are_too_long():
    with pytest.raises(AssertionError, match="a row of 12 tokens in a batch of 11"):
        batch_of([2, 1], length=11)


def test_joined_parts_are_those_of_the_joined_texts():
    other = Sequences(np.array([0, 5]), np.array([2, 9]), np.array([0, 2]), np.array([1]))
    both = Sequences.joined([PAIRS, other], [100, 50])
    assert both.starts.tolist() == [10, 40, 60, 20, 70, 100, 105] and both.stops.tolist()[-2:] == [102, 109]
    assert both.bounds.tolist() == [0, 2, 3, 5, 7] and both.labels.tolist() == [1, NO_LABEL, 0, 1]
    rows = Rows.joined([Rows(np.array([2, 0, 1]), np.array([0, 1, 3])), Rows(np.array([0]), np.array([0, 1]))])
    assert rows.members.tolist() == [2, 0, 1, 3] and rows.bounds.tolist() == [0, 1, 3, 4]
