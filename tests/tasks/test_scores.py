"""Metrics against values worked out by hand, and the TF-IDF baseline."""

import math
import subprocess
import sys

import numpy as np
import pytest

from bertjax import tasks
from bertjax.contracts import Row
from bertjax.errors import ConfigError, DataError
from bertjax.tasks._choices import Choices
from bertjax.tasks._scores import METRICS
from bertjax.tasks._tfidf import tfidf_scores
from bertjax.tasks.relation import Relation

# 3 true positives, 1 false positive, 2 false negatives, 4 true negatives
LABELS = np.array([1, 1, 1, 1, 1, 0, 0, 0, 0, 0])
PREDICTIONS = np.array([1, 1, 1, 0, 0, 1, 0, 0, 0, 0])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("accuracy", 0.7),
        ("f1", 2 * 3 / (2 * 3 + 1 + 2)),
        ("micro_f1", 0.7),
        ("matthews", (3 * 4 - 1 * 2) / math.sqrt(4 * 5 * 5 * 6)),
    ],
)
def test_of_classes(name, value):
    assert METRICS[name](PREDICTIONS, LABELS) == pytest.approx(value)


def test_correlations():
    predictions, labels = np.array([1.0, 2.0, 4.0]), np.array([0.0, 1.0, 1.5])
    # deviations (-4/3, -1/3, 5/3) and (-5/6, 1/6, 4/6): products sum to 13/6, squares to 14/3 and 7/6
    assert METRICS["pearson"](predictions, labels) == pytest.approx((13 / 6) / math.sqrt(14 / 3 * 7 / 6))
    assert METRICS["spearman"](predictions, labels) == pytest.approx(1.0)
    assert METRICS["spearman"](np.array([1.0, 3.0, 2.0]), labels) == pytest.approx(1 - 6 * 2 / (3 * 8))


@pytest.mark.parametrize("name", ["f1", "matthews", "pearson", "spearman"])
def test_constant_predictions_score_zero(name):
    assert METRICS[name](np.array([0, 0, 0]), np.array([0, 1, 1])) == 0.0


@pytest.mark.parametrize("name", ["pearson", "spearman"])
def test_predictions_that_are_not_numbers_score_zero(name):
    assert METRICS[name](np.array([np.nan, 1.0, 2.0]), np.array([0.0, 1.0, 2.0])) == 0.0


def test_correlation_of_one_row_is_zero():
    assert METRICS["pearson"](np.array([1.0]), np.array([2.0])) == 0.0


def test_listing_tasks_imports_no_scikit_learn():
    code = "import sys; from bertjax import tasks; tasks.all_tasks(); assert not 'sklearn' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_tfidf_learns_from_words_and_from_both_texts():
    train = [Row(f"win cash {i}", None, 1) for i in range(8)] + [Row(f"see you {i}", None, 0) for i in range(8)]
    dev = [Row("win cash now", None, 1), Row("see you soon", None, 0)]
    assert tfidf_scores(tasks.find("sms_spam"), train, dev) == {"f1": 1.0, "accuracy": 1.0}
    train, dev = ([Row("x", row.text_a, row.label) for row in rows] for rows in (train, dev))
    assert tfidf_scores(tasks.find("rte"), train, dev) == {"accuracy": 1.0}
    with pytest.raises(DataError, match="rte: all rows to train on are of one class"):
        tfidf_scores(tasks.find("rte"), train[:8], dev)


def test_tfidf_of_numbers_and_of_marked_sentences():
    rows = [Row("good film " * n, "", float(n)) for n in range(6)] + [Row("bad", "", 0.0)]
    assert tfidf_scores(tasks.find("stsb"), rows, rows)["pearson"] > 0.5
    places = ["box", "mat"] * 6
    related = [Relation(("The", "cat", "is in the", place, "."), False, n % 2) for n, place in enumerate(places)]
    assert tfidf_scores(tasks.find("chemprot"), related, related)["micro_f1"] == 1.0
    with pytest.raises(ConfigError, match="is for one or two texts a row, which swag has not; leave it out"):
        tfidf_scores(tasks.find("swag"), [Choices("", "", ("a", "b"), 0)], [])
