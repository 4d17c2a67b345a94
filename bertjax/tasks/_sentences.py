"""Tasks over one or two texts that lie in TSV files: a class or a score comes out."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bertjax.contracts import Row, TokenizerLike
from bertjax.data.rows import Example
from bertjax.errors import DataError
from bertjax.tasks import _lines
from bertjax.tasks._classify import ClassTask
from bertjax.train.log import console

# What the columns of a file for `predict` may be called, besides the names in the task's own files.
ONE_TEXT = (("text",), ("sentence",))
TWO_TEXTS = (("text_a", "text_b"), ("sentence1", "sentence2"))


class File(NamedTuple):
    """Names under which a split is published, its columns where its first line does not name them, and the names of
    texts and label where they are not those of the task.
    """

    names: tuple[str, ...]
    header: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    label: str = ""


@dataclass(frozen=True, kw_only=True)
class SentenceTask(ClassTask[Row]):
    """A contracts.Task whose examples are lines of a TSV file; `texts` and `label` name its columns."""

    folder: str
    splits: Mapping[str, File]
    texts: tuple[str, ...]
    label: str
    also: tuple[str, ...] = ()
    broken_rows: bool = False  # whether the published files are known to have some, which everyone leaves out

    @property
    def pair(self) -> bool:
        """Whether an example is two texts."""
        return len(self.texts) == 2

    @property
    def input_header(self) -> tuple[str, ...]:
        """Columns of a file of inputs that has as many and does not name them."""
        return ()

    def read(self, data_dir: str, split: str) -> list[Row]:
        """Rows of `split`, whose file lies in `data_dir` or in this task's folder there; a test set may lack labels."""
        file = _lines.of_split(self.name, self.splits, split)
        path = _lines.locate(self.name, data_dir, self.folder, file.names)
        records = self._records(path, file.header)
        columns, texts, label = records[0].values, file.texts or self.texts, file.label or self.label
        for column in texts if split.startswith("test") else (*texts, label):
            if column not in columns:
                raise DataError(
                    f"{path}:1: {self.name} needs a column {column!r}, here are {', '.join(map(repr, columns))}; "
                    "is this the published file, with the names of the columns in its first line?"
                )
        return [
            _row(self._texts(record, texts), self._label(record, label) if label in columns else None)
            for record in records
        ]

    def _records(self, path: Path, header: tuple[str, ...]) -> list[_lines.Record]:
        broken: list[str] = []
        records = _lines.table(path, header, broken if self.broken_rows else None)
        if broken:
            lines = ", ".join(place.rpartition(":")[2] for place in broken)
            console.print(f"{self.name}: {len(broken):,} broken rows of {path} are left out; lines {lines}")
        return records

    def read_inputs(self, path: str) -> list[Row]:
        """Rows to be predicted, from JSON lines (`.jsonl`), CSV (`.csv`) or TSV; `.gz` is read too.

        The texts are called as in the task's own files, or `text` or `sentence` (pairs: `text_a` and `text_b`,
        `sentence1` and `sentence2`); other columns are ignored. A file without such a header holds the bare texts.
        """
        spellings = (self.texts, *(TWO_TEXTS if self.pair else ONE_TEXT))
        rows = []
        for record in _input_records(Path(path), spellings, self.input_header):
            names = next((names for names in spellings if record.values.keys() >= set(names)), spellings[0])
            rows.append(_row(self._texts(record, names), None))
        return rows

    def _texts(self, record: _lines.Record, names: Sequence[str]) -> list[str]:
        texts = [text for name in names if isinstance(text := record.values.get(name), str)]
        if len(texts) < len(names):
            raise DataError(f"{record.place}: {self.name} needs {' and '.join(map(repr, names))}, each a string")
        return texts

    def encode(self, rows: Sequence[Row], tokenizer: TokenizerLike, length: int) -> list[Example]:
        """tokens i32[n], types i32[n] and, where known, label of each row; n <= length."""
        first = tokenizer.encode_batch([row.text_a for row in rows])
        second = tokenizer.encode_batch([row.text_b or "" for row in rows]) if self.pair else [None] * len(rows)
        examples = []
        for row, a, b in zip(rows, first, second, strict=True):
            tokens, types = tokenizer.pair_ids(a, b, length)
            label = {} if row.label is None else {"label": row.label}
            examples.append({"tokens": tokens, "types": types, **label})
        return examples

    def _label(self, record: _lines.Record, column: str) -> int | float:
        text = spelled(record, column)
        if self.labels:
            if text not in self.labels:
                raise DataError(
                    f"{record.place}: label {text!r} is not one of {', '.join(self.labels)}; correct the row"
                )
            return self.labels.index(text)
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise DataError(f"{record.place}: {column} {text!r} is not a number; correct the row")
        return value


def _row(texts: Sequence[str], label: int | float | None) -> Row:
    return Row(texts[0], texts[1] if len(texts) == 2 else None, label)


def spelled(record: _lines.Record, column: str) -> str:
    """A label as it is written; numbers and truth values of JSON as JSON has them."""
    value = record.values.get(column)
    if isinstance(value, str):
        return value
    if not isinstance(value, int | float):
        raise DataError(f"{record.place}: {column!r} is to be a label, a string or a number; correct the row")
    return json.dumps(value)


def _input_records(path: Path, spellings: Sequence[tuple[str, ...]], header: tuple[str, ...]) -> list[_lines.Record]:
    if _lines.is_json_lines(path):
        return _lines.objects(path)
    first = _lines.first_row(path)
    if any(set(names) <= set(first) for names in spellings):
        return _lines.table(path)
    for names in (header, spellings[0]):
        if len(first) == len(names):
            return _lines.table(path, names)
    raise DataError(
        f"{path}:1: neither a header with {' or '.join(dict.fromkeys('+'.join(names) for names in spellings))}, "
        f"nor {len(spellings[0])} bare column(s) of text but {len(first)}; add the header"
    )
