"""What rows are made of: sequences of one or more spans of text, each [CLS] span [SEP] span [SEP] ..."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bertjax.data.masking import Vocab
from bertjax.data.packing import Rows
from bertjax.data.ragged import join_bounds, ranges

NO_LABEL = -1
SHORTEST = 8  # tokens a row must have room for

Example = dict[str, Any]  # one row before it is padded and stacked, as `Task.encode` makes it: numpy arrays and numbers
HostBatch = dict[str, np.ndarray]  # a Batch of bertjax/contracts.py before it goes to the devices
# (batch, keys u64[B], how much of the training is done, from 0 to 1) -> batch; picklable
Corruption = Callable[[HostBatch, np.ndarray, float], HostBatch]


@dataclass(frozen=True)
class Sequences:
    """Q sequences of K spans of a shard: sequence q has the spans bounds[q] to bounds[q + 1], one or more.

    `labels` are those of the sentence objective, NO_LABEL where a sequence has none; i64[0] without such an objective.
    """

    starts: np.ndarray  # i64[K], indices into the shard's tokens
    stops: np.ndarray  # i64[K]
    bounds: np.ndarray  # i64[Q + 1]
    labels: np.ndarray  # i64[Q]

    def __len__(self) -> int:
        return len(self.bounds) - 1

    @property
    def sizes(self) -> np.ndarray:
        """Tokens of each sequence, with its marks: i64[Q]."""
        return 1 + np.add.reduceat(self.stops - self.starts + 1, self.bounds[:-1])

    @classmethod
    def joined(cls, parts: Sequence[Sequences], sizes: Sequence[int]) -> Sequences:
        """Those of several texts of so many tokens each as those of the texts joined."""
        shifts = np.cumsum([0, *sizes[:-1]])
        return cls(
            np.concatenate([part.starts + shift for part, shift in zip(parts, shifts, strict=True)]),
            np.concatenate([part.stops + shift for part, shift in zip(parts, shifts, strict=True)]),
            join_bounds([part.bounds for part in parts]),
            np.concatenate([part.labels for part in parts]),
        )

    @classmethod
    def single(cls, starts: np.ndarray, stops: np.ndarray) -> Sequences:
        """Sequences of one span each."""
        return cls(starts, stops, np.arange(len(starts) + 1), np.empty(0, np.int64))


Planner = Callable[..., Sequences]  # (Shard, *, length, rng) -> what an epoch makes of it; picklable


def row_batch(
    text: np.ndarray, sequences: Sequences, rows: Rows, chosen: np.ndarray, *, length: int, most: int, vocab: Vocab
) -> HostBatch:
    """Chosen rows of at most `most` = S sequences: tokens, types, sequence, positions i32[B,L]; first_tokens i32[B,S].

    With a sentence objective also next_labels i32[B,S], next_weights f32[B,S], and types that count the spans; without
    one all types are 0.
    """
    labelled = len(sequences.labels) > 0
    counts = rows.bounds[chosen + 1] - rows.bounds[chosen]
    members = rows.members[ranges(rows.bounds[chosen], counts)]
    row, number = np.repeat(np.arange(len(chosen)), counts), ranges(0, counts)  # of each sequence

    held = sequences.bounds[members + 1] - sequences.bounds[members]
    spans = ranges(sequences.bounds[members], held)
    kind = ranges(0, held)  # of each span
    marks = 1 + (kind == 0)  # [SEP] after it and, where it is the first of a sequence, [CLS] before it
    starts = sequences.starts[spans] - marks + 1
    sizes = sequences.stops[spans] - sequences.starts[spans] + marks
    spans_behind = np.cumsum(sizes)
    content = np.take(text, ranges(starts, sizes), mode="clip").astype(np.int32)
    content[spans_behind - 1] = vocab.sep
    behind = spans_behind[np.cumsum(held) - 1]  # of each sequence
    lengths = np.diff(behind, prepend=0)
    content[behind - lengths] = vocab.cls

    sizes_of_rows = np.bincount(row, lengths, len(chosen)).astype(np.int64)
    assert sizes_of_rows.max() <= length, f"a row of {sizes_of_rows.max()} tokens in a batch of {length}"
    inside = np.arange(length) < sizes_of_rows[:, None]

    def filled(values: np.ndarray, padding: int = 0) -> np.ndarray:
        out: np.ndarray = np.full(inside.shape, padding, np.int32)
        out[inside] = values
        return out

    def slots(values: np.ndarray, dtype: type) -> np.ndarray:
        out: np.ndarray = np.zeros((len(chosen), most), dtype)
        out[row, number] = values
        return out

    before = np.cumsum(sizes_of_rows) - sizes_of_rows
    batch = {
        "tokens": filled(content, vocab.pad),
        "types": filled(np.repeat(kind if labelled else 0 * kind, sizes)),
        "sequence": filled(np.repeat(number + 1, lengths)),
        "positions": filled(ranges(0, lengths)),
        "first_tokens": slots(behind - lengths - before[row], np.int32),
    }
    if labelled:
        labels = sequences.labels[members]
        batch["next_labels"] = slots(np.where(labels == NO_LABEL, 0, labels), np.int32)
        batch["next_weights"] = slots(labels != NO_LABEL, np.float32)
    return batch
