"""Batches of a task's examples."""

import numpy as np
import pytest

from bertjax.data.examples import ExampleSource, stack
from bertjax.data.sources import Position
from bertjax.errors import ConfigError


def an_epoch(source, epoch=0):
    return (source.batch(Position(epoch, 0, batch)) for batch in range(source.batches(epoch, 0)))


def examples(count, label=int):
    sizes = [3 + i % 5 for i in range(count)]
    return [
        {"tokens": np.arange(n, dtype=np.int32) + 5, "types": np.ones(n, np.int32), "label": label(i)}
        for i, n in enumerate(sizes)
    ]


def example_source(rows, **options):
    defaults = {"batch_size": 4, "length": 8, "pad": 9, "shuffle": False, "drop_last": False}
    return ExampleSource(rows, **{**defaults, **options})


def test_evaluation_keeps_order_and_fills_the_last_batch():
    source = example_source(examples(10))
    batches = list(an_epoch(source))
    assert len(batches) == 3
    assert np.concatenate([batch["labels"] for batch in batches]).tolist() == [*range(10), 0, 0]
    assert np.concatenate([batch["weights"] for batch in batches]).tolist() == [1] * 10 + [0, 0]
    last = batches[-1]
    assert last["tokens"][3].tolist() == [9] * 8 and last["sequence"][3].sum() == 1
    assert {batch["tokens"].shape for batch in batches} == {(4, 8)}
    assert (last["labels"].dtype, last["weights"].dtype) == (np.int32, np.float32)


def test_training_shuffles_by_epoch_and_drops_the_rest():
    source = example_source(examples(10), shuffle=True, drop_last=True, seed=3)
    orders = [np.concatenate([batch["labels"] for batch in an_epoch(source, epoch)]).tolist() for epoch in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert len(set(orders[0])) == 8


def test_labels_of_regression_and_of_test_sets():
    assert example_source(examples(4, label=float)).batch(Position())["labels"].dtype == np.float32
    unlabelled = [{**example, "label": None} for example in examples(5)]
    assert "labels" not in example_source(unlabelled).batch(Position())
    bare = [{"tokens": example["tokens"], "types": example["types"]} for example in examples(5)]
    assert "labels" not in example_source(bare).batch(Position(0, 0, 1))


def test_spans_and_tags_are_filled_up():
    rows = [{**example, "label": None, "span": np.array([1, 2])} for example in examples(5)]
    last = example_source(rows).batch(Position(0, 0, 1))
    assert last["spans"].tolist() == [[1, 2], [0, 0], [0, 0], [0, 0]] and last["spans"].dtype == np.int32
    assert "labels" not in last and "tags" not in last
    rows = [{"tokens": row["tokens"], "types": row["types"], "tags": [-1, 3, 4], "place": 7} for row in examples(3)]
    batch = example_source(rows).batch(Position())
    assert batch["tags"].tolist() == [[-1, 3, 4] + [-1] * 5] * 3 + [[-1] * 8] and batch["tags"].dtype == np.int32
    assert "place" not in batch
    assert "tags" not in example_source([*rows, {**rows[0], "tags": None}]).batch(Position())


def test_choices_are_rows_of_their_own_and_absent_ones_are_none():
    sequences = [{"tokens": row["tokens"], "types": row["types"]} for row in examples(5)]
    rows = [{"choices": sequences[:2], "label": 1}, {"choices": sequences[2:], "label": 2}]
    batch = example_source(rows, batch_size=3).batch(Position())
    assert batch["tokens"].shape == batch["positions"].shape == (3, 3, 8) and batch["first_tokens"].shape == (3, 3, 1)
    assert batch["tokens"][1, 2].tolist() == [*sequences[4]["tokens"], 9] and batch["types"][1, 2].sum() == 7
    assert batch["sequence"].any(axis=2).tolist() == [[True, True, False], [True] * 3, [True] * 3]
    assert batch["labels"].tolist() == [1, 2, 0] and batch["weights"].tolist() == [1, 1, 0]


def test_too_few_examples():
    with pytest.raises(ConfigError, match="batch_size=4 but there are only 3 examples"):
        example_source(examples(3), drop_last=True)
    with pytest.raises(ConfigError, match="only 0 examples"):
        example_source([])


def test_stack_refuses_what_does_not_fit():
    with pytest.raises(AssertionError, match="7 tokens for rows of 6"):
        stack(examples(5), length=6, pad=0)


def test_rows_of_a_batch_are_those_of_the_whole_one():
    source = example_source(examples(10))
    whole, some = source.batch(Position(0, 0, 2)), source.batch(Position(0, 0, 2), np.array([1, 3]))
    assert whole.keys() == some.keys() and all((whole[name][[1, 3]] == some[name]).all() for name in whole)


# -- buckets --------------------------------------------------------------------------------------------------------


def bucketed(rows, **options):
    return example_source(rows, length=8, buckets=(4, 6), **options)  # examples have 3 to 7 tokens


def test_rows_of_like_length_share_a_batch_of_one_of_the_lengths():
    source = bucketed(examples(50), batch_size=5, shuffle=True, drop_last=True, seed=1)
    epochs = [list(an_epoch(source, epoch)) for epoch in (0, 0, 1)]
    shapes = [[batch["tokens"].shape[1] for batch in epoch] for epoch in epochs]
    assert shapes[0] == shapes[1] != sorted(shapes[0]) and set(shapes[0]) == {4, 6, 8}
    for epoch in epochs:
        for batch in epoch:
            sizes = batch["sequence"].sum(1)
            assert source.lengths[np.searchsorted(source.lengths, sizes.max())] == batch["tokens"].shape[1]
        assert sum((batch["sequence"].sum(1) > 4).any() != (batch["sequence"].sum(1) > 4).all() for batch in epoch) <= 1
        assert sorted(np.concatenate([batch["labels"] for batch in epoch]).tolist()) == list(range(50))
    orders = [np.concatenate([batch["labels"] for batch in epoch]).tolist() for epoch in epochs]
    assert orders[0] == orders[1] != orders[2]
    again = bucketed(examples(50), batch_size=5, shuffle=True, drop_last=True, seed=1)
    assert (again.batch(Position(1, 0, 3))["labels"] == epochs[2][3]["labels"]).all()  # asked for out of order


def test_what_training_leaves_out_is_of_any_length():
    left = [
        set(range(11)) - {label for batch in an_epoch(source, epoch) for label in batch["labels"].tolist()}
        for source in [bucketed(examples(11), batch_size=5, shuffle=True, drop_last=True)]
        for epoch in range(30)
    ]
    assert all(len(rest) == 1 for rest in left) and {rest.pop() % 5 for rest in left} == {0, 1, 2, 3, 4}


def test_evaluation_in_buckets_has_every_row_once_and_says_which():
    source = bucketed(examples(10))
    batches = list(an_epoch(source))
    assert [batch["tokens"].shape for batch in batches] == [(4, 4), (4, 6), (4, 8)]
    made = np.concatenate([batch["labels"] for batch in batches])
    assert made[:10].tolist() == source.order(0).tolist() and sorted(made[:10]) == list(range(10))
    assert np.concatenate([batch["weights"] for batch in batches]).tolist() == [1] * 10 + [0, 0]


def test_tags_and_choices_have_the_length_of_their_batch():
    rows = [{**example, "label": None, "tags": [1] * len(example["tokens"])} for example in examples(4)]
    batch = bucketed(rows, batch_size=2).batch(Position())
    assert batch["tags"].shape == batch["tokens"].shape == (2, 4)
    sequences = [{"tokens": row["tokens"], "types": row["types"]} for row in examples(5)]
    rows = [{"choices": sequences[1:3], "label": 0}, {"choices": sequences[:2], "label": 1}]
    source = bucketed(rows, batch_size=1)
    assert [source.batch(Position(0, 0, i))["tokens"].shape for i in range(2)] == [(1, 2, 4), (1, 2, 6)]
    assert source.order(0).tolist() == [1, 0]


def test_weights_of_examples():
    rows = [{**example, "weight": 0.5 + example["label"]} for example in examples(3)]
    assert example_source(rows).batch(Position())["weights"].tolist() == [0.5, 1.5, 2.5, 0]
