"""SQuAD's JSON as rows. Every complaint names the file, the place in it and the cure."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bertjax.errors import DataError
from bertjax.tasks import _lines
from bertjax.tasks._spans import Question


def read(path: Path, *, unanswerable: bool, labelled: bool) -> list[Question]:
    """All questions of a file; `labelled` ones must have their answers."""
    rows: dict[str, Question] = {}
    for place, context, item in _questions(path):
        row = _question(place, context, item, unanswerable=unanswerable)
        if labelled and row.answers is None:
            raise DataError(f"{place}: question {row.id} has no answers; give the published file, not that of the test")
        if row.id in rows:
            raise DataError(f"{place}: the id {row.id!r} was given to another question before; ids name predictions")
        rows[row.id] = row
    if not rows:
        raise DataError(f"{path}: there are no questions in it; is it the right file?")
    return list(rows.values())


def _questions(path: Path) -> Iterator[tuple[str, str, Any]]:
    document = _lines.document(path)
    if not isinstance(document, dict):
        raise DataError(f'{path}: not SQuAD\'s format, an object with "data"; is it the right file?')
    for i, article in enumerate(_list(str(path), document, "data")):
        for j, paragraph in enumerate(_list(f"{path}: data[{i}]", article, "paragraphs")):
            place = f"{path}: data[{i}].paragraphs[{j}]"
            items = _list(place, paragraph, "qas")
            context = _text(place, paragraph, "context")
            yield from ((f"{place}.qas[{k}]", context, item) for k, item in enumerate(items))


def _question(place: str, context: str, item: Any, *, unanswerable: bool) -> Question:  # noqa: ANN401 (a JSON value)
    if not isinstance(item, dict):
        raise DataError(f"{place}: not an object; download the file again")
    question, key = _text(place, item, "question"), item.get("id")
    if not isinstance(key, str | int):
        raise DataError(f'{place}: needs an "id"')
    impossible = item.get("is_impossible", False)
    if impossible and not unanswerable:
        raise DataError(f"{place}: question {key} is_impossible, as in SQuAD 2.0: use --task squad2")
    answers: tuple[tuple[str, int], ...] | None = None
    if impossible:
        answers = ()
    elif item.get("answers"):
        answers = tuple(_answer(f"{place}.answers[{n}]", a) for n, a in enumerate(_list(place, item, "answers")))
    return Question(str(key), question, context, answers)


def _answer(place: str, item: Any) -> tuple[str, int]:  # noqa: ANN401 (a JSON value)
    text, start = _text(place, item, "text"), item.get("answer_start")
    if type(start) is not int or start < 0:
        raise DataError(f"{place}: answer_start is {start!r}, not a place in the context")
    return text, start


def _text(place: str, item: Any, name: str) -> str:  # noqa: ANN401 (a JSON value)
    value = item.get(name) if isinstance(item, dict) else None
    if not isinstance(value, str):
        raise DataError(f'{place}: needs a "{name}", a string; is {value!r}')
    return value


def _list(place: str, item: Any, name: str) -> list[Any]:  # noqa: ANN401 (a JSON value)
    value = item.get(name) if isinstance(item, dict) else None
    if not isinstance(value, list):
        raise DataError(f'{place}: needs "{name}", a list; is {type(value).__name__}')
    return value
