"""Relations between two marked entities of a sentence: SemEval-2010 task 8 and ChemProt.

Entities stand between marks of the text, "$ cat $ ... # mat #" (R-BERT, Wu and He 2019), not between new tokens
(Baldini Soares et al. 2019): those would begin untrained and make the vocabulary another, and punctuation does as well
(Zhou and Chen 2022). Where a vocabulary lacks it, [UNK] still shows where the entities are.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from re import compile as pattern
from typing import NamedTuple

import numpy as np

from bertjax.contracts import Prediction, Task, TokenizerLike
from bertjax.data.rows import Example
from bertjax.data.tokenizer import shares
from bertjax.errors import DataError, closest
from bertjax.tasks import _lines
from bertjax.tasks._classify import ClassTask, known

MARKS = ("$", "#")


class Relation(NamedTuple):
    """A sentence in five parts, the second and the fourth being entities; `swapped`: the second entity stands first."""

    parts: tuple[str, ...]
    swapped: bool
    label: int | None


@dataclass(frozen=True, kw_only=True)
class RelationTask(ClassTask[Relation]):
    """A contracts.Task over sentences in which a file marks two entities; `brackets` open and close each of them."""

    folder: str
    splits: Mapping[str, tuple[str, ...]]
    brackets: tuple[tuple[str, str], tuple[str, str]]

    def rows_of(self, path: Path) -> list[Relation]:
        """Rows of a file; those without a label have None."""
        raise NotImplementedError

    def read(self, data_dir: str, split: str) -> list[Relation]:
        """Rows of `split`."""
        names = _lines.of_split(self.name, self.splits, split)
        return self.rows_of(_lines.locate(self.name, data_dir, self.folder, names))

    def read_inputs(self, path: str) -> list[Relation]:
        """Sentences with marked entities: `text` in JSON lines, TSV or CSV, or a file as the task's own."""
        if _lines.is_json_lines(Path(path)) or {".tsv", ".csv"} & set(Path(path).suffixes):
            records = _lines.inputs(Path(path), ("text",), self.name)
            return [self.relation(place, values["text"], None) for place, values in records]
        return [row._replace(label=None) for row in self.rows_of(Path(path))]

    def relation(self, place: str, text: str, label: str | None) -> Relation:
        """A row from a text with marked entities and the name of its label."""
        if label is not None and label not in self.labels:
            raise DataError(f"{place}: there is no relation {label!r}{closest(label, self.labels)}")
        ends = []
        for left, right in self.brackets:
            begin = text.find(left)
            end = text.find(right, begin + len(left))
            if begin < 0 or end < 0:
                raise DataError(f"{place}: no entity between {left!r} and {right!r} in {text[:60]!r}; mark two")
            ends.append((begin, begin + len(left), end, end + len(right)))
        (a, b, c, d), (e, f, g, h) = sorted(ends)
        if e < d:
            raise DataError(f"{place}: one entity is inside the other in {text[:60]!r}; mark two that are apart")
        parts = (text[:a], text[b:c], text[d:e], text[f:g], text[h:])
        return Relation(parts, ends[0][0] == e, None if label is None else self.labels.index(label))

    def encode(self, rows: Sequence[Relation], tokenizer: TokenizerLike, length: int) -> list[Example]:
        """Each sentence with its entities between MARKS; too long a one loses what is farthest from both."""
        texts = [text for row in rows for text in _marked(row)]
        ids = iter(tokenizer.encode_batch(texts))
        examples = []
        for row in rows:
            kept = _fitting([next(ids) for _ in row.parts], length - 2)
            tokens, types = tokenizer.pair_ids(kept, None, length)
            label = {} if row.label is None else {"label": row.label}
            examples.append({"tokens": tokens, "types": types, **label})
        return examples


def _marked(row: Relation) -> Iterable[str]:
    """The parts as they are tokenised, with a space before all but the first."""
    marks = iter(reversed(MARKS) if row.swapped else MARKS)
    for number, part in enumerate(row.parts):
        text = part.strip()
        if number in (1, 3):
            mark = next(marks)
            text = f"{mark} {text} {mark}"
        yield f" {text}" if number and text else text


def _fitting(parts: Sequence[list[int]], room: int) -> list[int]:
    """At most `room` ids, but for long entities: the ends of the sentence go first, then the middle between the two."""
    before, first, between, second, after = parts
    middle = max(0, room - len(first) - len(second))
    if len(between) > middle:
        between = [*between[: (middle + 1) // 2], *between[len(between) - middle // 2 :]]
    outside = max(0, middle - len(between))
    left, right = shares(len(before), len(after), outside)
    return [*before[len(before) - left :], *first, *between, *second, *after[:right]]


RELATIONS = (
    "Cause-Effect",
    "Component-Whole",
    "Content-Container",
    "Entity-Destination",
    "Entity-Origin",
    "Instrument-Agency",
    "Member-Collection",
    "Message-Topic",
    "Product-Producer",
)
_SENTENCE = pattern(r'\d+\t"(.*)"')


class SemEval(RelationTask):
    """SemEval-2010 task 8. It has no dev set: the last tenth of the training file serves as one."""

    def read(self, data_dir: str, split: str) -> list[Relation]:
        """Rows of `split`."""
        rows = super().read(data_dir, split)
        kept = len(rows) - len(rows) // 10
        return {"train": rows[:kept], "dev": rows[kept:]}.get(split, rows)

    def rows_of(self, path: Path) -> list[Relation]:
        """Rows of a file in the official format: the numbered sentence, its relation, a comment, an empty line."""
        found: list[tuple[str, str, str | None]] = []
        for place, text in _lines.lines(path):
            line = text.strip()
            if sentence := _SENTENCE.fullmatch(line):
                found.append((place, sentence[1], None))
            elif line and not line.startswith("Comment"):
                if not found or found[-1][2] is not None:
                    raise DataError(f'{place}: no numbered sentence (7 TAB "...") nor a relation: {line[:60]!r}')
                found[-1] = (place, found[-1][1], line)
        if not found:
            raise DataError(f"{path}: there are no numbered sentences in it; is it the right file?")
        return [self.relation(*row) for row in found]

    def score(self, predictions: Sequence[Prediction], rows: Sequence[Relation]) -> dict[str, float]:
        """The official macro-F1, and the accuracy over all 19 classes."""
        truths = [self.labels[label] for label in known(self.name, [row.label for row in rows])]
        answers = [prediction["prediction"] for prediction in predictions]
        accuracy = float(np.mean([answer == truth for answer, truth in zip(answers, truths, strict=True)]))
        return {"macro_f1": directed_macro_f1(answers, truths), "accuracy": accuracy}


def directed_macro_f1(answers: Sequence[str], truths: Sequence[str]) -> float:
    """The mean F1 of the relations, without Other; the right relation in the wrong direction is an error of both kinds.

    The official score ((9+1)-way evaluation with directionality taken into account), over relations that there are.
    """
    right = Counter(_undirected(truth) for answer, truth in zip(answers, truths, strict=True) if answer == truth)
    answered, there = Counter(map(_undirected, answers)), Counter(map(_undirected, truths))
    values = [2 * right[name] / (answered[name] + there[name]) for name in there if name != "Other"]
    return float(np.mean(values)) if values else 0.0


def _undirected(label: str) -> str:
    return label.partition("(")[0]


class ChemProt(RelationTask):
    """ChemProt as the language-model papers have it: 13 classes, micro-F1 over all (which is the accuracy)."""

    def rows_of(self, path: Path) -> list[Relation]:
        """Rows of JSON lines with `text` and `label`."""
        rows = []
        for place, values in _lines.objects(path):
            text, label = values.get("text"), values.get("label")
            if not isinstance(text, str) or not isinstance(label, str):
                raise DataError(f'{place}: {self.name} needs "text" and "label", each a string')
            rows.append(self.relation(place, text, label))
        return rows


SEMEVAL = SemEval(
    name="semeval2010",
    source="SemEval-2010 task 8 (Hendrickx et al. 2010), CC BY 3.0",
    folder="semeval2010_task8",
    splits={"train": ("TRAIN_FILE.TXT",), "dev": ("TRAIN_FILE.TXT",), "test": ("TEST_FILE_FULL.TXT",)},
    brackets=(("<e1>", "</e1>"), ("<e2>", "</e2>")),
    labels=("Other", *(f"{name}{way}" for name in RELATIONS for way in ("(e1,e2)", "(e2,e1)"))),
    metrics=("macro_f1", "accuracy"),
)

CHEMPROT = ChemProt(
    name="chemprot",
    source="ChemProt (Krallinger et al. 2017), as JSON lines, research use",
    folder="chemprot",
    splits={split: (f"{split}.jsonl", f"{split}.txt") for split in ("train", "dev", "test")},
    brackets=(("<< ", " >>"), ("[[ ", " ]]")),
    labels=(
        "ACTIVATOR",
        "AGONIST",
        "AGONIST-ACTIVATOR",
        "AGONIST-INHIBITOR",
        "ANTAGONIST",
        "DOWNREGULATOR",
        "INDIRECT-DOWNREGULATOR",
        "INDIRECT-UPREGULATOR",
        "INHIBITOR",
        "PRODUCT-OF",
        "SUBSTRATE",
        "SUBSTRATE_PRODUCT-OF",
        "UPREGULATOR",
    ),
    metrics=("micro_f1",),
)

TASKS: dict[str, Task] = {task.name: task for task in (SEMEVAL, CHEMPROT)}
