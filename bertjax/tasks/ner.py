"""Named entities: CoNLL-2003 from its column files, whichever way they mark where an entity begins."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from bertjax.contracts import Head, Output, Prediction, Task, TokenizerLike
from bertjax.data.rows import Example
from bertjax.errors import DataError, closest
from bertjax.tasks import _lines
from bertjax.tasks._classify import known
from bertjax.tasks._windows import most_context, windows


class Sentence(NamedTuple):
    """Words and their tags in IOB2 (every entity begins with B-), None where they are not known."""

    words: tuple[str, ...]
    tags: tuple[str, ...] | None


class Place(NamedTuple):
    """Which words of which row an example labels, and the tokens that say so."""

    row: int
    words: np.ndarray
    tokens: np.ndarray


@dataclass(frozen=True, kw_only=True)
class EntityTask(Task[Sentence]):
    """A contracts.Task that tags words; files hold a word and, in their last column, its tag a line."""

    head: ClassVar[Head] = "tag"

    name: str
    source: str
    folder: str
    splits: Mapping[str, tuple[str, ...]]
    types: tuple[str, ...]
    metrics: tuple[str, ...] = ("f1", "precision", "recall")
    stride: int = 128

    @property
    def labels(self) -> tuple[str, ...]:  # type: ignore[override]
        """O, and B- and I- of each type of entity."""
        return ("O", *(f"{mark}-{kind}" for kind in self.types for mark in "BI"))

    def read(self, data_dir: str, split: str) -> list[Sentence]:
        """Sentences of `split`; -DOCSTART- lines are left out."""
        names = _lines.of_split(self.name, self.splits, split)
        return self._sentences(_lines.locate(self.name, data_dir, self.folder, names), tagged=True)

    def read_inputs(self, path: str) -> list[Sentence]:
        """Sentences from JSON lines with `words`, or from column files, whose first column is read."""
        if not _lines.is_json_lines(Path(path)):
            return self._sentences(Path(path), tagged=False)
        records = _lines.objects(Path(path))
        for place, values in records:
            words = values.get("words")
            if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
                raise DataError(f'{place}: {self.name} needs "words", a list of strings')
        return [Sentence(tuple(values["words"]), None) for _, values in records]

    def _sentences(self, path: Path, *, tagged: bool) -> list[Sentence]:
        fields = ((line, re.split("[ \t]+", line.text.strip(" \t"))) for line in _lines.lines(path))
        kept = ((line, row) for line, row in fields if row[0] != "-DOCSTART-")
        found = []
        for filled, group in groupby(kept, key=lambda pair: pair[1] != [""]):
            if filled:
                rows = list(group)
                tags = iob2([self._tag(line, row) for line, row in rows]) if tagged else None
                found.append(Sentence(tuple(row[0] for _, row in rows), tags))
        if not found:
            raise DataError(f"{path}: there are no sentences in it; is it the right file?")
        return found

    def _tag(self, line: _lines.Line, row: Sequence[str]) -> str:
        if len(row) < 2:
            raise DataError(f"{line.place}: {line.text!r} has no tag; write a word and its tag, with a space between")
        mark, _, kind = row[-1].partition("-")
        if row[-1] != "O" and not (mark in MARKS and kind in self.types):
            raise DataError(
                f"{line.place}: tag {row[-1]!r} is not O or one of {'- '.join(MARKS)}- with a type"
                f"{closest(kind, self.types)}"
            )
        return row[-1]

    def encode(self, rows: Sequence[Sentence], tokenizer: TokenizerLike, length: int) -> list[Example]:
        """The pieces of each sentence; the first piece of a word has its tag, in the window that shows most around it.

        A word of byte-level BPE carries the space before it.
        """
        spelled = [[f" {word}" if i else word for i, word in enumerate(row.words)] for row in rows]
        words = list(dict.fromkeys(word for row in spelled for word in row))
        known_ids = dict(zip(words, tokenizer.encode_batch(words), strict=True))
        number = {label: index for index, label in enumerate(self.labels)}
        examples = []
        for index, (row, spelling) in enumerate(zip(rows, spelled, strict=True)):
            pieces = [known_ids[word] or [tokenizer.unk_id] for word in spelling]
            ids = [id for word in pieces for id in word]
            firsts = np.cumsum([0, *map(len, pieces[:-1])])[: len(pieces)]
            found = windows(len(ids), room=length - 2, stride=self.stride)
            best = most_context(found, len(ids))[firsts]
            for window, (begin, end) in enumerate(found):
                tokens, types = tokenizer.pair_ids(ids[begin:end], None, length)
                first, last = np.searchsorted(firsts, (begin, end))
                shown = first + np.flatnonzero(best[first:last] == window)
                place = Place(index, shown, firsts[shown] - begin + 1)
                example: Example = {"tokens": tokens, "types": types, "place": place}
                if row.tags is not None:
                    example["tags"] = np.full(len(tokens), -1, np.int32)
                    example["tags"][place.tokens] = [number[row.tags[word]] for word in shown]
                examples.append(example)
        return examples

    def decode(
        self,
        outputs: Sequence[Output],
        examples: Sequence[Example],
        rows: Sequence[Sentence],
        tuned: Mapping[str, float],
    ) -> list[Prediction]:
        """The likeliest tag of each word, in IOB2, and the entities that they make."""
        tags = [["O"] * len(row.words) for row in rows]
        for output, example in zip(outputs, examples, strict=True):
            place: Place = example["place"]
            for word, best in zip(place.words, output[place.tokens].argmax(axis=-1), strict=True):
                tags[place.row][word] = self.labels[best]
        return [_prediction(row.words, iob2(marked)) for row, marked in zip(rows, tags, strict=True)]

    def score(self, predictions: Sequence[Prediction], rows: Sequence[Sentence]) -> dict[str, float]:
        """F1, precision and recall of whole entities, as conlleval has them."""
        from seqeval.metrics.sequence_labeling import precision_recall_fscore_support

        truths = [list(tags) for tags in known(self.name, [row.tags for row in rows])]
        answers = [prediction["prediction"] for prediction in predictions]
        values = precision_recall_fscore_support(truths, answers, average="micro", zero_division=0)
        return {name: float(value) for name, value in zip(("precision", "recall", "f1"), values, strict=False)}

    def table(self, predictions: Sequence[Prediction]) -> list[list[Any]]:
        """A line a word."""
        rows = [
            [index, word, tag]
            for index, p in enumerate(predictions)
            for word, tag in zip(p["words"], p["prediction"], strict=True)
        ]
        return [["index", "word", "prediction"], *rows]


MARKS = "BIESLU"  # begin, inside, end, single (BIOES); last and unit are other names of the last two (BILOU)


def iob2(tags: Sequence[str]) -> tuple[str, ...]:
    """Tags of IOB1, IOB2, BIOES or BILOU with B- wherever an entity begins and I- inside it.

    As conlleval has it, an I- that goes on with nothing begins an entity: in IOB1 that is the rule.
    """
    made, inside = [], ""
    for tag in tags:
        mark, _, kind = tag.partition("-")
        made.append(tag if tag == "O" else f"I-{kind}" if mark in "IEL" and kind == inside else f"B-{kind}")
        inside = kind if mark in "BI" else ""
    return tuple(made)


def _prediction(words: Sequence[str], tags: Sequence[str]) -> Prediction:
    starts = [i for i, tag in enumerate(tags) if tag.startswith("B-")]
    entities = []
    for begin in starts:
        end = next((i for i in range(begin + 1, len(tags)) if not tags[i].startswith("I-")), len(tags))
        text = " ".join(words[begin:end])
        entities.append({"type": tags[begin].removeprefix("B-"), "begin": begin, "end": end, "text": text})
    return {"words": list(words), "prediction": list(tags), "entities": entities}


CONLL2003 = EntityTask(
    name="conll2003",
    source="CoNLL-2003 English (Tjong Kim Sang and De Meulder 2003), Reuters, research use",
    folder="conll2003",
    splits={
        "train": ("eng.train", "train.txt"),
        "dev": ("eng.testa", "valid.txt", "dev.txt"),
        "test": ("eng.testb", "test.txt"),
    },
    types=("PER", "ORG", "LOC", "MISC"),
)

TASKS: dict[str, Task] = {task.name: task for task in (CONLL2003,)}
