"""SQuAD's official exact match and F1, and the choice of the null threshold, after the rules of its two scorers."""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")

Measure = Callable[[str, str], float]


def normalized(text: str) -> str:
    """Lower-case, without ASCII punctuation, articles and surplus white space."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, truth: str) -> float:
    """1 where both are the same after normalisation."""
    return float(normalized(prediction) == normalized(truth))


def f1(prediction: str, truth: str) -> float:
    """Of the words that both have; where either has none (SQuAD 2.0: no answer) it is 1 if neither has."""
    ours, theirs = normalized(prediction).split(), normalized(truth).split()
    if not ours or not theirs:
        return float(ours == theirs)
    common = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * common / (len(ours) + len(theirs))


def f1_of_words(prediction: str, truth: str) -> float:
    """F1 as SQuAD 1.1 has it: 0 where either has no words."""
    return f1(prediction, truth) if normalized(prediction) else 0.0


def best_match(measure: Measure, prediction: str, truths: Sequence[str]) -> float:
    """The measure against the nearest of several right answers."""
    return max(measure(prediction, truth) for truth in truths)


def null_threshold(odds: np.ndarray, answered: np.ndarray, unanswered: np.ndarray) -> float:
    """The threshold of f[n] null odds, above which a question is left unanswered, with the best total score.

    `answered` and `unanswered` are the scores f[n] of each question with its answer, and with none.
    """
    order = np.argsort(odds, kind="stable")
    odds, gain = odds[order], (answered - unanswered)[order]
    totals = np.concatenate([[0.0], np.cumsum(gain)])  # with the first k questions answered
    bounds = np.concatenate([[odds[0] - 2], odds, [odds[-1] + 2]])
    possible = np.flatnonzero(np.diff(bounds) > 0)  # equal odds are answered together
    best = possible[totals[possible].argmax()]
    return float((bounds[best] + bounds[best + 1]) / 2)
