"""A packed row is worth its sequences one by one: the same loss, term by term."""

import jax
import numpy as np
import pytest
from helpers import TINY, init

from bertjax.data.examples import stack
from bertjax.data.masking import Masking, Vocab
from bertjax.data.packing import most_sequences, pack
from bertjax.data.rows import NO_LABEL, Sequences, row_batch
from bertjax.objectives import mlm

LENGTH = 32
VOCAB = Vocab(128, 0, 1, 2, 3, 4)
CONFIG = mlm.Config(masking=Masking(rate=(0.3,)))
SLOTS = CONFIG.masking.slots(LENGTH)


@pytest.fixture(scope="module")
def packed():
    """A batch of packed and masked rows of pairs, some of them without a label."""
    rng = np.random.default_rng(0)
    count, most = 40, most_sequences(LENGTH)
    text = rng.integers(5, 128, 2000)
    starts = rng.integers(0, 1900, 2 * count)
    sizes = rng.integers(1, 9, 2 * count)
    labels = rng.integers(NO_LABEL, 2, count)
    sequences = Sequences(starts, starts + sizes, np.arange(0, 2 * count + 1, 2), labels)
    rows = pack(sequences.sizes, length=LENGTH, rng=rng)
    chosen = np.arange(len(rows.bounds) - 1)
    batch = row_batch(text, sequences, rows, chosen, length=LENGTH, most=most, vocab=VOCAB)
    keys = rng.integers(2**64, size=len(chosen), dtype=np.uint64)
    batch = CONFIG.corruption(VOCAB, LENGTH)(batch, keys, 0.0)
    assert batch["sequence"].max() > 2 and len(chosen) < 0.7 * count
    return batch


def unpacked(batch):
    """The same sequences with the same masks, each in a row of its own."""
    examples = []
    for row, sequence in enumerate(batch["sequence"]):
        for number in range(sequence.max()):
            places = np.flatnonzero(sequence == number + 1)
            example = {name: batch[name][row, places] for name in ("tokens", "types")}
            used = (batch["masked_weights"][row] > 0) & np.isin(batch["masked_positions"][row], places)
            for name, less in (("masked_positions", places[0]), ("masked_targets", 0), ("masked_weights", 0)):
                array = batch[name][row]
                example[name] = np.zeros(SLOTS, array.dtype)
                example[name][: used.sum()] = array[used] - less
            for name in ("next_labels", "next_weights"):
                example[name] = batch[name][row, [number]]
            examples.append(example)
    others = {name for name in examples[0] if name.startswith(("masked_", "next_"))}
    batch = stack(examples, length=LENGTH, pad=VOCAB.pad)
    return batch | {name: np.stack([example[name] for example in examples]) for name in others}


def test_the_loss_of_packed_and_unpacked_batches_is_equal(packed):
    objective = CONFIG.build(TINY)
    alone = unpacked(packed)
    assert len(alone["tokens"]) == 40 and alone["first_tokens"].shape == (40, 1) and not alone["first_tokens"].any()
    params = init(objective, alone, train=False)
    step = jax.jit(lambda batch: objective.apply(params, batch, train=False))
    one, other = jax.device_get(step(packed)), jax.device_get(step(alone))
    assert one.keys() == other.keys() == {"mlm_loss", "mlm_accuracy", "nsp_loss", "nsp_accuracy"}
    for name in one:
        assert one[name][1] == other[name][1] > 20
        np.testing.assert_allclose(one[name][0] / one[name][1], other[name][0] / other[name][1], rtol=0, atol=1e-5)
    # A row whose sequences saw each other, or whose positions went on, would have another loss.
    for name, wrong in (("sequence", np.minimum(packed["sequence"], 1)), ("positions", np.arange(LENGTH)[None])):
        changed = jax.device_get(step({**packed, name: np.broadcast_to(wrong, packed[name].shape).astype(np.int32)}))
        assert any(abs(changed[term][0] - one[term][0]) / one[term][1] > 1e-3 for term in objective.loss_terms)


def test_the_gradients_of_packed_and_unpacked_batches_are_equal(packed):
    objective = CONFIG.build(TINY)
    params = init(objective, packed, train=False)

    def loss(params, batch):
        metrics = objective.apply(params, batch, train=False)
        return sum(metrics[name][0] / metrics[name][1] for name in objective.loss_terms)

    one, other = (jax.device_get(jax.jit(jax.grad(loss))(params, batch)) for batch in (packed, unpacked(packed)))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
