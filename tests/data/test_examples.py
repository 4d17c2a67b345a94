"""Batches of a task's examples."""

import numpy as np
import pytest

from bertjax.data.examples import ExampleSource
from bertjax.data.sources import Position, stack
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


def test_too_few_examples():
    with pytest.raises(ConfigError, match="batch_size=4 but there are only 3 examples"):
        example_source(examples(3), drop_last=True)
    with pytest.raises(ConfigError, match="only 0 examples"):
        example_source([])


def test_stack_refuses_what_does_not_fit():
    with pytest.raises(AssertionError, match="7 tokens for rows of 6"):
        stack(examples(5), length=6, pad=0)
