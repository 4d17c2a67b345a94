"""Multiple choice: which of several texts goes best with a context (BERT section 4.4)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from bertjax.contracts import Head, Output, Prediction, Task, TokenizerLike
from bertjax.data.rows import Example
from bertjax.errors import DataError
from bertjax.tasks import _lines
from bertjax.tasks._classify import known, softmax
from bertjax.tasks._scores import METRICS

MOST = 100  # choices of a row: a batch has as many sequences for each of its rows


class Choices(NamedTuple):
    """A context and what may go with it; `stem` (a question, a beginning) stands before every choice."""

    context: str
    stem: str
    choices: tuple[str, ...]
    label: int | None


Parse = Callable[[Path, bool], list[Choices]]  # (file, whether it has to have labels)


@dataclass(frozen=True, kw_only=True)
class ChoiceTask(Task[Choices]):
    """A contracts.Task that gives [CLS] context [SEP] stem choice [SEP] of each choice a score; `parse` reads files."""

    head: ClassVar[Head] = "choose"

    name: str
    source: str
    folder: str
    splits: Mapping[str, tuple[str, ...]]
    parse: Parse
    labels: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ("accuracy",)

    def read(self, data_dir: str, split: str) -> list[Choices]:
        """Rows of `split`; a test set may lack labels."""
        names = _lines.of_split(self.name, self.splits, split)
        return self.parse(_lines.locate(self.name, data_dir, self.folder, names), split != "test")

    def read_inputs(self, path: str) -> list[Choices]:
        """Rows from a file like the task's own, or JSON lines with `context`, `choices` and perhaps a `question`."""
        if ".jsonl" in Path(path).suffixes:
            records = _lines.objects(Path(path))
            if "choices" in records[0].values:
                return [_given(record, self.name) for record in records]
        return self.parse(Path(path), False)

    def encode(self, rows: Sequence[Choices], tokenizer: TokenizerLike, length: int) -> list[Example]:
        """A sequence of at most `length` tokens for each choice; what is too long loses the end of its longer side."""
        contexts = tokenizer.encode_batch([row.context for row in rows])
        seconds = iter(
            tokenizer.encode_batch([f"{row.stem} {choice}".strip() for row in rows for choice in row.choices])
        )
        examples = []
        for row, context in zip(rows, contexts, strict=True):
            pairs = [tokenizer.pair_ids(context, next(seconds), length) for _ in row.choices]
            sequences = [{"tokens": tokens, "types": types} for tokens, types in pairs]
            examples.append({"choices": sequences, "label": row.label})
        return examples

    def decode(
        self,
        outputs: Sequence[Output],
        examples: Sequence[Example],
        rows: Sequence[Choices],
        tuned: Mapping[str, float],
    ) -> list[Prediction]:
        """The number of the likeliest choice, and all of them ranked."""
        predictions = []
        for output, row in zip(outputs, rows, strict=True):
            shares = softmax(output[: len(row.choices)]).tolist()
            order = sorted(range(len(shares)), key=lambda number: -shares[number])
            best = [{"choice": n, "text": row.choices[n], "probability": shares[n]} for n in order]
            predictions.append({"prediction": order[0], "best": best})
        return predictions

    def score(self, predictions: Sequence[Prediction], rows: Sequence[Choices]) -> dict[str, float]:
        """The metrics that `metrics` names."""
        labels = np.array(known(self.name, [row.label for row in rows]))
        answers = np.array([prediction["prediction"] for prediction in predictions])
        return {name: METRICS[name](answers, labels) for name in self.metrics}

    def table(self, predictions: Sequence[Prediction]) -> list[list[Any]]:
        """A line a choice, the likeliest of a row first."""
        rows = [
            [index, rank, entry["choice"], entry["probability"], " ".join(entry["text"].split())]
            for index, prediction in enumerate(predictions)
            for rank, entry in enumerate(prediction["best"], 1)
        ]
        return [["index", "rank", "choice", "probability", "text"], *rows]


def _given(record: _lines.Record, task: str) -> Choices:
    """A row of the user's."""
    values = {"question": "", **record.values}
    texts, choices = [values.get(name) for name in ("context", "question")], values.get("choices")
    if not all(isinstance(text, str) for text in texts) or not isinstance(choices, list):
        raise DataError(f'{record.place}: {task} needs "context", a string, and "choices", a list; "question" may be')
    return checked(record.place, Choices(str(texts[0]), str(texts[1]), tuple(choices), None))


def checked(place: str, row: Choices) -> Choices:
    """The row, whose choices are several strings, the label one of them."""
    if not 2 <= len(row.choices) <= MOST or not all(isinstance(choice, str) for choice in row.choices):
        raise DataError(f"{place}: needs 2 to {MOST} choices, each a string; has {len(row.choices)}")
    if row.label is not None and not 0 <= row.label < len(row.choices):
        raise DataError(f"{place}: label {row.label} is not one of 0 to {len(row.choices) - 1}; correct the row")
    return row
