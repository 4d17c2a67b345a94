"""Multiple choice from published files: SWAG, DREAM and COPA."""

from pathlib import Path
from typing import Any

from bertjax.contracts import Task
from bertjax.errors import DataError
from bertjax.tasks import _lines
from bertjax.tasks._choices import Choices, ChoiceTask, checked

ENDINGS = tuple(f"ending{n}" for n in range(4))
JOINED = {"cause": "because", "effect": "so"}  # how the premise of COPA leads to a choice (RoBERTa)


def swag(path: Path, labelled: bool) -> list[Choices]:
    """SWAG's CSV: sent1, the beginning sent2 of the next sentence, four endings, label."""
    records = _lines.csv_records(path)
    wanted = ("sent1", "sent2", *ENDINGS, *(("label",) if labelled else ()))
    missing = [name for name in wanted if name not in records[0].values]
    if missing:
        raise DataError(f"{path}:1: SWAG needs the columns {', '.join(wanted)}; missing: {missing}")
    rows = []
    for place, values in records:
        label = _number(place, values["label"]) if values.get("label") else None
        if label is None and labelled:
            raise DataError(f"{place}: the label is empty; write 0 to 3")
        endings = tuple(values[name] for name in ENDINGS)
        rows.append(checked(place, Choices(values["sent1"], values["sent2"], endings, label)))
    return rows


def dream(path: Path, labelled: bool) -> list[Choices]:
    """DREAM's JSON: lists of [turns of a dialogue, questions, id]."""
    document = _lines.document(path)
    rows = []
    for i, item in enumerate(document if isinstance(document, list) else []):
        if not isinstance(item, list) or len(item) != 3 or not all(isinstance(part, list) for part in item[:2]):
            raise DataError(f"{path}: [{i}]: not [dialogue, questions, id], as DREAM has it")
        turns, questions, _ = item
        context = " ".join(map(str, turns))
        rows += [_dream(f"{path}: [{i}][1][{j}]", context, q, labelled) for j, q in enumerate(questions)]
    if not rows:
        raise DataError(f"{path}: there are no questions in it; is it the right file?")
    return rows


def _dream(place: str, context: str, item: Any, labelled: bool) -> Choices:  # noqa: ANN401 (a JSON value)
    values = item if isinstance(item, dict) else {}
    question, choices, answer = (values.get(name) for name in ("question", "choice", "answer"))
    if not isinstance(question, str) or not isinstance(choices, list):
        raise DataError(f'{place}: needs a "question" (a string) and "choice" (a list)')
    if answer not in choices and (labelled or answer is not None):
        raise DataError(f"{place}: the answer {answer!r} is not one of the choices; correct it")
    label = choices.index(answer) if answer in choices else None
    return checked(place, Choices(context, question, tuple(choices), label))


def copa(path: Path, labelled: bool) -> list[Choices]:
    """COPA's JSON lines, as in SuperGLUE: premise, question (cause or effect), choice1, choice2, label."""
    rows = []
    for place, values in _lines.objects(path):
        premise, *choices = texts = [values.get(name) for name in ("premise", "choice1", "choice2")]
        if not all(isinstance(text, str) for text in texts) or values.get("question") not in JOINED:
            raise DataError(
                f'{place}: COPA needs "premise", "choice1" and "choice2" (strings) and "question": "cause" or "effect"'
            )
        label = values.get("label")
        if labelled or label is not None:
            label = _number(place, label)
        rows.append(checked(place, Choices(str(premise), JOINED[values["question"]], tuple(map(str, choices)), label)))
    return rows


def _number(place: str, label: Any) -> int:  # noqa: ANN401 (any JSON value)
    try:
        return int(label)
    except (TypeError, ValueError):
        raise DataError(f"{place}: label {label!r} is not the number of a choice, which begin at 0") from None


SWAG = ChoiceTask(
    name="swag",
    source="SWAG (Zellers et al. 2018), MIT",
    folder="swag",
    splits={"train": ("train.csv",), "dev": ("val.csv", "dev.csv"), "test": ("test.csv",)},
    parse=swag,
)

DREAM = ChoiceTask(
    name="dream",
    source="DREAM (Sun et al. 2019), research use",
    folder="dream",
    splits={split: (f"{split}.json",) for split in ("train", "dev", "test")},
    parse=dream,
)

COPA = ChoiceTask(
    name="copa",
    source="Choice of Plausible Alternatives (Roemmele et al. 2011), as in SuperGLUE, BSD",
    folder="COPA",
    splits={"train": ("train.jsonl",), "dev": ("val.jsonl", "dev.jsonl"), "test": ("test.jsonl",)},
    parse=copa,
)

TASKS: dict[str, Task] = {task.name: task for task in (SWAG, DREAM, COPA)}
