"""What rows are made of: sequences of one or more spans of text, each [CLS] span [SEP] span [SEP] ..."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bertjax.data.masking import Vocab

NO_LABEL = -1


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
    def single(cls, starts: np.ndarray, stops: np.ndarray) -> Sequences:
        """Sequences of one span each."""
        return cls(starts, stops, np.arange(len(starts) + 1), np.empty(0, np.int64))


def row_example(
    text: np.ndarray, sequences: Sequences, members: Sequence[int], *, vocab: Vocab, most: int
) -> dict[str, Any]:
    """A row of at most `most` = S sequences: tokens, types, sequence, positions i32[n]; first_tokens i32[S].

    With a sentence objective also next_labels i32[S], next_weights f32[S], and types that count the spans; without
    one all types are 0.
    """
    spans = [slice(sequences.bounds[member], sequences.bounds[member + 1]) for member in members]
    texts = [(sequences.starts[span].tolist(), sequences.stops[span].tolist()) for span in spans]
    size = sum(1 + sum(stops) - sum(starts) + len(starts) for starts, stops in texts)
    tokens, types, sequence, positions = np.zeros((4, size), np.int32)
    first_tokens, labelled = np.zeros(most, np.int32), len(sequences.labels) > 0
    at = 0
    for number, (starts, stops) in enumerate(texts):
        first = first_tokens[number] = at
        tokens[at] = vocab.cls
        at += 1
        for kind, (start, stop) in enumerate(zip(starts, stops, strict=True)):
            end = at + stop - start
            tokens[at:end], tokens[end] = text[start:stop], vocab.sep
            if kind and labelled:
                types[at : end + 1] = kind
            at = end + 1
        sequence[first:at] = number + 1
        positions[first:at] = np.arange(at - first)
    row = {"tokens": tokens, "types": types, "sequence": sequence, "positions": positions, "first_tokens": first_tokens}
    if labelled:
        labels = np.full(most, NO_LABEL, np.int32)
        labels[: len(members)] = sequences.labels[members]
        row["next_labels"] = np.where(labels == NO_LABEL, np.int32(0), labels)
        row["next_weights"] = (labels != NO_LABEL).astype(np.float32)
    return row
