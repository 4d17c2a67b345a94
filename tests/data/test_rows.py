from dataclasses import replace

import numpy as np

from bertjax.data.masking import Vocab
from bertjax.data.rows import NO_LABEL, Sequences, row_example

VOCAB = Vocab(size=10**9, pad=0, unk=1, cls=2, sep=3, mask=4)
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


def test_a_pair_as_a_row():
    row = row_example(TEXT, PAIRS, [0], vocab=VOCAB, most=1)
    assert row["tokens"].tolist() == [2, 10, 11, 12, 3, 40, 41, 3]
    assert row["types"].tolist() == [0, 0, 0, 0, 0, 1, 1, 1]
    assert row["sequence"].tolist() == [1] * 8 and row["positions"].tolist() == [*range(8)]
    assert (row["first_tokens"].tolist(), row["next_labels"].tolist(), row["next_weights"].tolist()) == ([0], [1], [1])
    kinds = {name: array.dtype.name for name, array in row.items()}
    assert kinds.pop("next_weights") == "float32" and set(kinds.values()) == {"int32"}


def test_several_sequences_in_a_row():
    row = row_example(TEXT, PAIRS, [2, 1], vocab=VOCAB, most=4)
    assert row["tokens"].tolist() == [2, 20, 3, 70, 71, 3, 2, 60, 61, 62, 63, 3]
    assert row["types"].tolist() == [0, 0, 0, 1, 1, 1, *[0] * 6]
    assert row["sequence"].tolist() == [1] * 6 + [2] * 6
    assert row["positions"].tolist() == [*range(6), *range(6)]
    assert row["first_tokens"].tolist() == [0, 6, 0, 0]
    assert row["next_labels"].tolist() == [0, 0, 0, 0] and row["next_weights"].tolist() == [1, 0, 0, 0]


def test_without_a_sentence_objective_there_are_neither_types_nor_labels():
    plain = replace(PAIRS, labels=np.empty(0, np.int64))
    row = row_example(TEXT, plain, [0], vocab=VOCAB, most=1)
    assert row["tokens"].tolist() == [2, 10, 11, 12, 3, 40, 41, 3] and not row["types"].any()
    assert row.keys() == {"tokens", "types", "sequence", "positions", "first_tokens"}
