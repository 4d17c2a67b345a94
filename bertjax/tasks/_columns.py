"""Classification and regression of the user's own texts: which columns of which files hold what."""

from dataclasses import dataclass, replace
from pathlib import Path

from bertjax.errors import ConfigError, DataError
from bertjax.tasks import _lines
from bertjax.tasks._sentences import File, SentenceTask, spelled

NAMES = {"train": ("train",), "dev": ("dev", "valid", "validation", "val"), "test": ("test",)}
MOST = 1000  # labels: more are the sign of a column that holds no classes


@dataclass(frozen=True)
class Columns:
    """Your own files, one row a line: TSV, CSV (fields may be quoted) or JSON lines, perhaps .gz."""

    texts: tuple[str, ...] = ("text",)
    """column with the text, or the two of a pair"""
    label: str = "label"
    """column with the class or the number"""
    header: tuple[str, ...] = ()
    """names of all columns in their order, of files whose first line does not name them"""
    files: tuple[str, ...] = ()
    """the training and the dev file in --data, perhaps a test file; without it train, dev, test .tsv, .csv or .jsonl"""
    labels: tuple[str, ...] = ()
    """classes in the order of the logits; without it those in the training file, sorted"""
    regression: bool = False
    """the label is a number"""

    def __post_init__(self) -> None:
        if not 1 <= len(self.texts) <= 2:
            raise ConfigError(f"columns.texts={' '.join(self.texts)}: name one column, or the two of a pair")
        if self.files and not 2 <= len(self.files) <= 3:
            raise ConfigError(f"columns.files={' '.join(self.files)}: name a training, a dev and perhaps a test file")
        missing = [name for name in (*self.texts, self.label) if self.header and name not in self.header]
        if missing:
            raise ConfigError(f"columns.header={' '.join(self.header)} does not name {', '.join(missing)}")
        if self.labels and (self.regression or len(set(self.labels)) != len(self.labels) or len(self.labels) < 2):
            raise ConfigError(
                f"columns.labels={' '.join(self.labels)}: 2 classes or more, each once; in regression none"
            )


@dataclass(frozen=True, kw_only=True)
class ColumnTask(SentenceTask):
    """A sentence task over the user's own files."""

    @property
    def input_header(self) -> tuple[str, ...]:
        """Inputs may be files like the training file."""
        return self.splits["train"].header


def of_columns(columns: Columns) -> ColumnTask:
    """The task `text`, to be read once the labels are known."""
    names = {
        split: [f"{name}.{kind}" for name in found for kind in ("tsv", "csv", "jsonl")]
        for split, found in NAMES.items()
    }
    names |= {split: [name] for split, name in zip(NAMES, columns.files, strict=False)}
    return ColumnTask(
        name="text",
        source="your own texts with a class or a number: --columns.texts, --columns.label",
        folder="text",
        splits={split: File(tuple(files), columns.header) for split, files in names.items()},
        texts=columns.texts,
        label=columns.label,
        labels=columns.labels,
        metrics=("pearson", "spearman") if columns.regression else ("accuracy", "macro_f1"),
    )


def with_labels(columns: Columns, data_dir: str) -> Columns:
    """The columns with the labels of the training file: sorted, by value where all are whole numbers."""
    if columns.labels or columns.regression:
        return columns
    task = of_columns(columns)
    file = task.splits["train"]
    path = _lines.locate(task.name, data_dir, task.folder, file.names)
    records = _lines.table(path, file.header)
    if columns.label not in records[0].values:
        here = ", ".join(map(repr, records[0].values))
        raise DataError(
            f"{path}:1: there is no column {columns.label!r}, here are {here}; see --columns.label, .header"
        )
    return replace(columns, labels=_sorted(path, {spelled(record, columns.label) for record in records}))


def _sorted(path: Path, labels: set[str]) -> tuple[str, ...]:
    if not 2 <= len(labels) <= MOST:
        raise DataError(
            f"{path}: {len(labels):,} labels, as {next(iter(labels))!r}; classes are 2 to {MOST:,}; "
            "is it another column (--columns.label), or a number (--columns.regression)?"
        )
    numbers = all(label.removeprefix("-").isdecimal() and len(label) < 20 for label in labels)
    return tuple(sorted(labels, key=int if numbers else None))
