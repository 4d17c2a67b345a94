"""What tasks with one class or one number a row have in common, wherever their rows come from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np

from bertjax.contracts import Head, Output, Prediction, Task
from bertjax.data.rows import Example
from bertjax.errors import DataError
from bertjax.tasks._scores import METRICS


class Labelled(Protocol):
    """A row with a class index or a number, or None where it is not known."""

    @property
    def label(self) -> int | float | None: ...


R = TypeVar("R", bound=Labelled)


@dataclass(frozen=True, kw_only=True)
class ClassTask(Task[R]):
    """A contracts.Task that gives each row the likeliest of `labels`, or a number where there are none."""

    head: ClassVar[Head] = "classify"

    name: str
    source: str
    labels: tuple[str, ...] = ()  # as the files spell them, in the order of the logits; empty for regression
    metrics: tuple[str, ...]

    def decode(
        self, outputs: Sequence[Output], examples: Sequence[Example], rows: Sequence[R], tuned: Mapping[str, float]
    ) -> list[Prediction]:
        """The label with the probability of each, or the number."""
        assert len(outputs) == len(rows) and all(len(output) == max(1, len(self.labels)) for output in outputs)
        if not self.labels:
            return [{"prediction": float(output[0])} for output in outputs]
        shares = [dict(zip(self.labels, softmax(output).tolist(), strict=True)) for output in outputs]
        return [{"prediction": max(row, key=row.__getitem__), "probabilities": row} for row in shares]

    def score(self, predictions: Sequence[Prediction], rows: Sequence[R]) -> dict[str, float]:
        """The metrics that `metrics` names."""
        labels = np.array(known(self.name, [row.label for row in rows]))
        answers = [prediction["prediction"] for prediction in predictions]
        values = np.array([self.labels.index(answer) for answer in answers] if self.labels else answers)
        return {name: METRICS[name](values, labels) for name in self.metrics}

    def table(self, predictions: Sequence[Prediction]) -> list[list[Any]]:
        """The prediction and the probability of each label."""
        rows = [[index, p["prediction"], *p.get("probabilities", {}).values()] for index, p in enumerate(predictions)]
        return [["index", "prediction", *self.labels], *rows]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of logits f[n], in float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max())
    return shifted / shifted.sum()


def known(task: str, labels: list[Any]) -> list[Any]:
    """The labels of rows that are to be scored; all must be there."""
    if None in labels:
        raise DataError(f"{task}: these rows have no labels, there is nothing to score; use --split dev")
    return labels
