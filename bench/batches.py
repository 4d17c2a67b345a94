"""Batches of random tokens, for benchmarks that need no text."""

from collections.abc import Sequence

import numpy as np

from bertjax.data.masking import Masking


def random_batch(
    rows: Sequence[Sequence[int]], length: int, vocab_size: int, rng: np.random.Generator, slots: int = 0
) -> dict[str, np.ndarray]:
    """A batch (contracts.Batch) of rows of sequences of the given lengths, about 15% of their tokens masked.

    It has as many `slots` for masked tokens as pretraining would give it, or another number.
    """
    slots, most = slots or Masking().slots(length), max(map(len, rows))
    shape = (len(rows), length)
    batch = {name: np.zeros(shape, np.int32) for name in ("types", "sequence", "positions")}
    batch["tokens"] = rng.integers(5, vocab_size, shape, dtype=np.int32)
    batch |= {
        "first_tokens": np.zeros((len(rows), most), np.int32),
        "next_weights": np.zeros((len(rows), most), np.float32),
    }
    batch |= {name: np.zeros((len(rows), slots), np.int32) for name in ("masked_positions", "masked_targets")}
    batch["masked_weights"] = np.zeros((len(rows), slots), np.float32)
    for row, lengths in enumerate(rows):
        at = 0
        for number, size in enumerate(lengths):
            batch["sequence"][row, at : at + size] = number + 1
            batch["positions"][row, at : at + size] = np.arange(size)
            batch["types"][row, at + size // 2 : at + size] = 1
            batch["first_tokens"][row, number], batch["next_weights"][row, number] = at, 1
            at += size
        count = min(slots, max(1, round(0.15 * at)))
        batch["masked_positions"][row, :count] = np.sort(rng.permutation(at)[:count])
        batch["masked_targets"][row, :count] = rng.integers(5, vocab_size, count)
        batch["masked_weights"][row, :count] = 1
    batch["next_labels"] = rng.integers(0, 2, (len(rows), most)).astype(np.int32)
    return batch
