"""Batches of encoded examples in memory, such as a task's split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bertjax.data.sources import EXAMPLES, HostBatch, Position, generator
from bertjax.errors import ConfigError

Example = dict[str, Any]  # one row before padding: tokens i32[n], types i32[n], perhaps more

NOTHING = -1  # where a batch has no example left


def stack(examples: Sequence[Example], *, length: int, pad: int) -> HostBatch:
    """B examples as one batch (as in contracts): tokens, types, sequence, positions i32[B,L]; first_tokens i32[B,S].

    An example that says nothing of them is one sequence. Other arrays (labels of sequences, a corruption's slots)
    have one shape in all examples and are stacked under their own names.
    """
    rows = len(examples)
    batch = {name: np.zeros((rows, length), np.int32) for name in ("tokens", "types", "sequence", "positions")}
    batch["tokens"][:] = pad
    for i, example in enumerate(examples):
        size = len(example["tokens"])
        assert size <= length, f"an example of {size} tokens for rows of {length}"
        batch["tokens"][i, :size] = example["tokens"]
        batch["types"][i, :size] = example["types"]
        batch["sequence"][i, :size] = example.get("sequence", 1)
        batch["positions"][i, :size] = example["positions"] if "positions" in example else np.arange(size)
    for name in examples[0].keys() - batch.keys() - {"label"}:
        batch[name] = np.stack([example[name] for example in examples])
    return {"first_tokens": np.zeros((rows, 1), np.int32), **batch}


class ExampleSource:
    """Encoded examples in memory (a task's split) as batches with labels i32[B] or f32[B] and weights f32[B].

    `shuffle` orders them anew from (seed, epoch), else they stay in file order. `drop_last` leaves out what does not
    fill a batch (training); otherwise the last batch is filled with rows of weight 0 (evaluation).
    """

    windows = 1

    def __init__(
        self,
        examples: Sequence[Example],
        *,
        batch_size: int,
        length: int,
        pad: int,
        shuffle: bool,
        drop_last: bool,
        seed: int = 0,
    ) -> None:
        if len(examples) < (batch_size if drop_last else 1):
            raise ConfigError(f"batch_size={batch_size} but there are only {len(examples)} examples; lower it")
        self.examples = examples
        self.batch_size, self.length, self.pad = batch_size, length, pad
        self.shuffle, self.drop_last, self.seed = shuffle, drop_last, seed

    def batches(self, epoch: int, window: int) -> int:
        """How many batches an epoch has: every epoch the same."""
        full, rest = divmod(len(self.examples), self.batch_size)
        return full + bool(rest and not self.drop_last)

    def batch(self, position: Position, rows: np.ndarray | None = None) -> HostBatch:
        """The batch at a position, or of its rows those named; rows of weight 0 hold one padding token."""
        order = np.arange(len(self.examples))
        if self.shuffle:
            order = generator(EXAMPLES, self.seed, position.epoch).permutation(order)
        chosen = order[position.batch * self.batch_size :][: self.batch_size]
        filled = np.append(chosen, np.full(self.batch_size - len(chosen), NOTHING))
        examples = [self._example(number) for number in (filled if rows is None else filled[rows]).tolist()]
        batch = stack(examples, length=self.length, pad=self.pad)
        labels = [example.get("label") for example in examples]
        if None not in labels:
            kind = np.float32 if isinstance(labels[0], float) else np.int32
            batch["labels"] = np.array(labels, kind)
        return batch

    def _example(self, number: int) -> Example:
        if number != NOTHING:
            return {**self.examples[number], "weights": np.float32(1)}
        # Like another in all but its tokens, which are none: its label counts for nothing.
        return {**self.examples[0], "tokens": [self.pad], "types": [0], "weights": np.float32(0)}
