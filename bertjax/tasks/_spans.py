"""Questions over a context: windows for the span head, and answers from its logits (BERT section 4.2, run_squad.py)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bertjax.contracts import Output, TokenizerLike
from bertjax.data.rows import Example
from bertjax.tasks._classify import softmax
from bertjax.tasks._windows import most_context, windows


class Question(NamedTuple):
    """A question over a context; `answers` are (text, first code point), None where they are not known."""

    id: str
    question: str
    context: str
    answers: tuple[tuple[str, int], ...] | None  # () for a question that the context does not answer


class Place(NamedTuple):
    """What an example shows of which row: its context begins at token `first`."""

    row: int
    first: int
    offsets: np.ndarray  # i32[n,2]: where its tokens lie in the context
    central: np.ndarray  # bool[n]: those that no other window shows with more around them


class Answer(NamedTuple):
    """A piece of a context, and the sum of the logits of its ends."""

    begin: int
    end: int
    score: float


def encode(
    rows: Sequence[Question], tokenizer: TokenizerLike, *, length: int, stride: int, max_question: int
) -> list[Example]:
    """Every window of every row, in their order, as [CLS] question [SEP] part of the context [SEP]."""
    contexts = list(dict.fromkeys(row.context for row in rows))
    known = dict(zip(contexts, tokenizer.encode_with_offsets(contexts), strict=True))
    marks = len(tokenizer.pair_ids((), (), length)[0])  # 3, in RoBERTa 4
    longest = min(max_question, (length - marks) // 2)
    examples = []
    for number, row in enumerate(rows):
        question = tokenizer.encode_batch([row.question])[0][:longest]
        ids, offsets = known[row.context]
        found = windows(len(ids), room=length - marks - len(question), stride=stride)
        central = most_context(found, len(ids))
        answer = _answer_tokens(row, offsets)
        for window, (begin, end) in enumerate(found):
            tokens, types = tokenizer.pair_ids(question, ids[begin:end], length)
            first = len(tokens) - 1 - (end - begin)
            place = Place(number, first, offsets[begin:end], central[begin:end] == window)
            example = {"tokens": tokens, "types": types, "place": place}
            if answer is not None:
                seen = begin <= answer[0] <= answer[1] < end
                example["span"] = np.array(answer, np.int32) + first - begin if seen else np.zeros(2, np.int32)
            examples.append(example)
    return examples


def _answer_tokens(row: Question, offsets: np.ndarray) -> tuple[int, int] | None:
    """The first and last token of the first answer, (-1, -1) where there is none."""
    if row.answers is None:
        return None
    if not row.answers:
        return -1, -1
    text, start = row.answers[0]
    begin = int(np.searchsorted(offsets[:, 1], start, side="right"))
    end = int(np.searchsorted(offsets[:, 0], start + len(text), side="left")) - 1
    return (begin, end) if begin <= end else (-1, -1)


def answers(output: Output, place: Place, *, max_answer: int, n_best: int) -> list[Answer]:
    """The `n_best` likeliest answers of at most `max_answer` tokens in a window."""
    count = len(place.offsets)
    if not count:
        return []
    starts, ends = output[place.first : place.first + count].astype(np.float64).T
    padded = np.concatenate([ends, np.full(max_answer - 1, -np.inf)])
    scores = starts[:, None] + np.lib.stride_tricks.sliding_window_view(padded, max_answer)  # f[count, max_answer]
    scores[~place.central] = -np.inf
    best = np.argsort(-scores, axis=None, kind="stable")[:n_best]
    found = []
    for start, more in zip(*np.unravel_index(best, scores.shape), strict=True):
        if np.isfinite(scores[start, more]):
            begin, end = place.offsets[start, 0], place.offsets[start + more, 1]
            found.append(Answer(int(begin), int(end), float(scores[start, more])))
    return found


def n_best_of(context: str, found: Sequence[Answer], count: int) -> list[dict[str, Any]]:
    """The best answers of all windows, each text once, the likeliest first."""
    texts: dict[str, Answer] = {}
    for answer in sorted(found, key=lambda answer: -answer.score):
        text = context[answer.begin : answer.end]
        if text.strip() and len(texts) < count:
            texts.setdefault(text, answer)
    return [
        {"text": text, "begin": answer.begin, "end": answer.end, "score": answer.score}
        for text, answer in texts.items()
    ]


def with_probabilities(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Entries with a score, the likeliest first, with their share among them."""
    if not entries:
        return []
    shares = softmax(np.array([entry["score"] for entry in entries]))
    made = [{**entry, "probability": float(share)} for entry, share in zip(entries, shares, strict=True)]
    return sorted(made, key=lambda entry: -entry["score"])
