"""Reading comprehension: SQuAD 1.1 and 2.0 from their published JSON. Scores are shares, not percent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bertjax.contracts import Head, Output, Prediction, Task, TokenizerLike
from bertjax.data.rows import Example
from bertjax.tasks import _lines, _spans, _squad_files
from bertjax.tasks._classify import known
from bertjax.tasks._spans import Place, Question
from bertjax.tasks._squad_scores import best_match, exact_match, f1, f1_of_words, normalized, null_threshold

NO_ANSWER = -1e4  # the score of an answer in a context without tokens


@dataclass(frozen=True, kw_only=True)
class Squad(Task[Question]):
    """A contracts.Task whose answers are pieces of a context; the settings are those of BERT's run_squad.py."""

    head: ClassVar[Head] = "span"

    name: str
    source: str
    splits: Mapping[str, tuple[str, ...]]
    metrics: tuple[str, ...]
    writes: tuple[str, ...]
    unanswerable: bool
    labels: tuple[str, ...] = ()
    stride: int = 128
    max_question: int = 64
    max_answer: int = 30
    n_best: int = 20

    def read(self, data_dir: str, split: str) -> list[Question]:
        """Questions of `split` with their answers, from a file in `data_dir` or in squad/ there."""
        path = _lines.locate(self.name, data_dir, "squad", _lines.of_split(self.name, self.splits, split))
        return _squad_files.read(path, unanswerable=self.unanswerable, labelled=True)

    def read_inputs(self, path: str) -> list[Question]:
        """Questions from SQuAD's JSON, or from JSON lines, TSV or CSV with `question`, `context`, perhaps `id`."""
        if ".json" in Path(path).suffixes:
            return _squad_files.read(Path(path), unanswerable=True, labelled=False)
        records = _lines.inputs(Path(path), ("question", "context"), self.name)
        return [
            Question(str(r.values.get("id", index)), r.values["question"], r.values["context"], None)
            for index, r in enumerate(records)
        ]

    def fault(self, row: Question) -> str:
        """An answer that does not stand where the file says."""
        for text, start in (row.answers or ())[:1]:
            if (there := row.context[start : start + len(text)]) != text:
                return f"question {row.id}: the answer {text!r} is not at {start} of its context, there is {there!r}"
        return ""

    def encode(self, rows: Sequence[Question], tokenizer: TokenizerLike, length: int) -> list[Example]:
        """Windows over the context of each question."""
        return _spans.encode(rows, tokenizer, length=length, stride=self.stride, max_question=self.max_question)

    def decode(
        self,
        outputs: Sequence[Output],
        examples: Sequence[Example],
        rows: Sequence[Question],
        tuned: Mapping[str, float],
    ) -> list[Prediction]:
        """The best answer of each question, "" where null wins by more than the threshold tuned on dev."""
        found: list[list[_spans.Answer]] = [[] for _ in rows]
        nulls = np.full(len(rows), np.inf)
        for output, example in zip(outputs, examples, strict=True):
            place: Place = example["place"]
            found[place.row] += _spans.answers(output, place, max_answer=self.max_answer, n_best=self.n_best)
            nulls[place.row] = min(nulls[place.row], float(output[0].sum()))
        threshold = tuned.get("null_threshold", 0.0)
        return [
            self._prediction(row, answers, float(null), threshold)
            for row, answers, null in zip(rows, found, nulls, strict=True)
        ]

    def _prediction(self, row: Question, found: list[_spans.Answer], null: float, threshold: float) -> Prediction:
        best = _spans.n_best_of(row.context, found, self.n_best)
        text = best[0]["text"] if best else ""
        if not self.unanswerable:
            return {"id": row.id, "prediction": text, "best": _spans.with_probabilities(best)}
        odds = null - (best[0]["score"] if best else NO_ANSWER)
        best = _spans.with_probabilities([*best, {"text": "", "begin": 0, "end": 0, "score": null}])
        return {"id": row.id, "prediction": "" if odds > threshold else text, "null_odds": odds, "best": best}

    def tune(self, predictions: Sequence[Prediction], rows: Sequence[Question]) -> dict[str, float]:
        """The null threshold with the best F1."""
        if not self.unanswerable:
            return {}
        answers = [next((e["text"] for e in p["best"] if e["text"]), "") for p in predictions]
        truths = [self._truths(row) for row in rows]
        answered, unanswered = (
            np.array([best_match(f1, text, truth) for text, truth in zip(texts, truths, strict=True)])
            for texts in (answers, [""] * len(rows))
        )
        return {"null_threshold": null_threshold(np.array([p["null_odds"] for p in predictions]), answered, unanswered)}

    def score(self, predictions: Sequence[Prediction], rows: Sequence[Question]) -> dict[str, float]:
        """Official F1 and exact match; for SQuAD 2.0 also F1 of the questions with and without an answer."""
        known(self.name, [row.answers for row in rows])
        texts, truths = [p["prediction"] for p in predictions], [self._truths(row) for row in rows]
        measures = {"f1": f1 if self.unanswerable else f1_of_words, "exact_match": exact_match}
        values = {
            name: np.array([best_match(measure, *pair) for pair in zip(texts, truths, strict=True)])
            for name, measure in measures.items()
        }
        figures = {name: float(value.mean()) for name, value in values.items()}
        answerable = np.array([bool(row.answers) for row in rows])
        for name, part in (("has_answer_f1", answerable), ("no_answer_f1", ~answerable)):
            if self.unanswerable and part.any():
                figures[name] = float(values["f1"][part].mean())
        return figures

    def _truths(self, row: Question) -> list[str]:
        """Right answers; the scorer of SQuAD 2.0 leaves out those of which normalisation leaves nothing."""
        texts = [text for text, _ in row.answers or ()]
        return [text for text in texts if normalized(text)] or [""] if self.unanswerable else texts

    def table(self, predictions: Sequence[Prediction]) -> list[list[Any]]:
        """The answer, in one line, and for SQuAD 2.0 how much likelier none is."""
        odds = ["null_odds"] if self.unanswerable else []
        rows = [[p["id"], " ".join(p["prediction"].split()), *(p[name] for name in odds)] for p in predictions]
        return [["id", "prediction", *odds], *rows]

    def files(self, predictions: Sequence[Prediction], rows: Sequence[Question]) -> dict[str, Any]:
        """What the official scorers read: question id -> answer, and null odds; and the n best answers."""
        contents = {"predictions": "prediction", "nbest_predictions": "best", "null_odds": "null_odds"}
        return {name: {p["id"]: p[contents[name]] for p in predictions} for name in self.writes}


SQUAD = Squad(
    name="squad",
    source="SQuAD 1.1 (Rajpurkar et al. 2016), CC BY-SA 4.0",
    splits={"train": ("train-v1.1.json",), "dev": ("dev-v1.1.json",)},
    metrics=("f1", "exact_match"),
    writes=("predictions", "nbest_predictions"),
    unanswerable=False,
)

SQUAD2 = Squad(
    name="squad2",
    source="SQuAD 2.0 (Rajpurkar et al. 2018), CC BY-SA 4.0",
    splits={"train": ("train-v2.0.json",), "dev": ("dev-v2.0.json",)},
    metrics=("f1", "exact_match", "has_answer_f1", "no_answer_f1"),
    writes=("predictions", "nbest_predictions", "null_odds"),
    unanswerable=True,
)

TASKS: dict[str, Task] = {task.name: task for task in (SQUAD, SQUAD2)}
