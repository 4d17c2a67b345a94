"""A task's rows as batches: pure functions of a position, over examples in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bertjax.data.rows import Example, HostBatch
from bertjax.data.sources import EXAMPLES, Position, generator
from bertjax.errors import ConfigError


def stack(examples: Sequence[Example], *, length: int, pad: int) -> HostBatch:
    """B examples as one batch (as in contracts): tokens, types, sequence, positions i32[B,L]; first_tokens i32[B,1].

    Each is one sequence, or none where it says `sequence` 0.
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
        batch["positions"][i, :size] = np.arange(size)
    return {"first_tokens": np.zeros((rows, 1), np.int32), **batch}


class ExampleSource:
    """Encoded examples in memory (a task's split) as batches, as in contracts: what the model sees, what is right, and
    weights f32[B].

    `shuffle` orders them anew from (seed, epoch), else they stay in file order. `drop_last` leaves out what does not
    fill a batch (training); otherwise the last batch is filled with rows of weight 0 (evaluation).

    With `buckets`, ascending lengths of which those below `length` count, rows of like length come together: a batch
    has the shortest of these, or `length`, that holds its rows. So shapes are few, and each is compiled once.
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
        buckets: Sequence[int] = (),
    ) -> None:
        if len(examples) < (batch_size if drop_last else 1):
            raise ConfigError(f"batch_size={batch_size} but there are only {len(examples)} examples; lower it")
        self.examples = examples
        self.batch_size, self.length, self.pad = batch_size, length, pad
        self.shuffle, self.drop_last, self.seed = shuffle, drop_last, seed
        self.choices = max(len(example.get("choices", ())) for example in examples)
        self.lengths = np.array([*(bucket for bucket in buckets if bucket < length), length])
        self._bucket = np.searchsorted(self.lengths, [_size(example) for example in examples])
        self._known: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))

    def batches(self, epoch: int, window: int) -> int:
        """How many batches an epoch has: every epoch the same."""
        full, rest = divmod(len(self.examples), self.batch_size)
        return full + bool(rest and not self.drop_last)

    def batch(self, position: Position, rows: np.ndarray | None = None) -> HostBatch:
        """The batch at a position, or of its rows those named; rows of weight 0 hold one padding token."""
        chosen = self.numbers(position)
        length = int(self.lengths[self._bucket[chosen].max()])
        examples = [self.examples[i] for i in chosen]
        missing = self.batch_size - len(examples)
        sequences = [sequence for example in examples for sequence in self._sequences(example)]
        sequences += [{"tokens": [self.pad], "types": [0]}] * (missing * max(1, self.choices))
        batch = stack(sequences, length=length, pad=self.pad)
        if self.choices:
            batch = {name: array.reshape(-1, self.choices, array.shape[-1]) for name, array in batch.items()}
        weights = np.array([example.get("weight", 1) for example in examples] + [0] * missing, np.float32)
        batch |= {**self._answers(examples, missing, length), "weights": weights}
        return batch if rows is None else {name: array[rows] for name, array in batch.items()}

    def numbers(self, position: Position) -> np.ndarray:
        """The examples of a batch: i64[b]."""
        return self.order(position.epoch)[position.batch * self.batch_size :][: self.batch_size]

    def order(self, epoch: int) -> np.ndarray:
        """i64[n]: the examples of an epoch as its batches take them."""
        if self._known[0] != epoch:
            self._known = epoch, self._order(epoch)
        return self._known[1]

    def _order(self, epoch: int) -> np.ndarray:
        rng, count, size = generator(EXAMPLES, self.seed, epoch), len(self.examples), self.batch_size
        order = rng.permutation(np.arange(count)) if self.shuffle else np.arange(count)
        full = count // size * size
        if self.drop_last:
            order = order[:full]  # before they are sorted: what is left out is of any length
        if len(self.lengths) > 1:
            order = order[np.argsort(self._bucket[order], kind="stable")]
            if self.shuffle:
                order[:full] = rng.permutation(order[:full].reshape(-1, size)).ravel()
        return order

    def _sequences(self, example: Example) -> list[Example]:
        """What the model sees of an example: one sequence, or one for each choice; absent choices are no sequence."""
        if not self.choices:
            return [example]
        absent = {"tokens": [self.pad], "types": [0], "sequence": 0}
        return [*example["choices"], *[absent] * (self.choices - len(example["choices"]))]

    def _answers(self, examples: Sequence[Example], missing: int, length: int) -> HostBatch:
        """What is right, where all examples say it."""

        def of_all(name: str) -> list[Any]:
            values = [example[name] for example in examples if example.get(name) is not None]
            return values if len(values) == len(examples) else []

        answers = {}
        if labels := of_all("label"):
            kind = np.float32 if isinstance(labels[0], float) else np.int32
            answers["labels"] = np.array(labels + [0] * missing, kind)
        if spans := of_all("span"):
            answers["spans"] = np.array(spans + [(0, 0)] * missing, np.int32)
        if tags := of_all("tags"):
            answers["tags"] = np.full((self.batch_size, length), -1, np.int32)
            for row, values in enumerate(tags):
                answers["tags"][row, : len(values)] = values
        return answers


def _size(example: Example) -> int:
    """Tokens of an example, of the longest of its choices where it has some."""
    return max(len(sequence["tokens"]) for sequence in example.get("choices", (example,)))
