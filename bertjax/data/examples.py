"""A task's rows as batches: pure functions of a position, over examples in memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bertjax.data.sources import EXAMPLES, Example, HostBatch, Position, stack
from bertjax.errors import ConfigError


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

    def batch(self, position: Position) -> HostBatch:
        """The batch at a position; rows of weight 0 hold one padding token."""
        order = np.arange(len(self.examples))
        if self.shuffle:
            order = np.random.default_rng((EXAMPLES, self.seed, position.epoch)).permutation(order)
        chosen = order[position.batch * self.batch_size :][: self.batch_size]
        examples = [self.examples[i] for i in chosen]
        missing = self.batch_size - len(examples)
        nothing = {**examples[0], "tokens": [self.pad], "types": [0]}
        batch = stack(examples + [nothing] * missing, length=self.length, pad=self.pad)
        batch["weights"] = np.repeat(np.array([1, 0], np.float32), [len(examples), missing])
        labels = [example.get("label") for example in examples]
        if None not in labels:
            kind = np.float32 if isinstance(labels[0], float) else np.int32
            batch["labels"] = np.array(labels + [0] * missing, kind)
        return batch
