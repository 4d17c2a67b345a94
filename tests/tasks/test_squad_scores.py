"""SQuAD's measures against cases worked out by hand."""

import numpy as np
import pytest

from bertjax.tasks._squad_scores import best_match, exact_match, f1, f1_of_words, normalized, null_threshold


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Denver\tBroncos!", "denver broncos"),
        ("a cat, an owl; the theatre", "cat owl theatre"),
        ("U.S.", "us"),
        ("'a'", ""),
        ("rock'n'roll", "rocknroll"),
        ("“Café”", "“café”"),  # only ASCII punctuation goes
        ("$5-6", "56"),
    ],
)
def test_normalisation(text, expected):
    assert normalized(text) == expected


@pytest.mark.parametrize(
    ("prediction", "truth", "exact", "overlap", "words"),
    [
        ("the Broncos", "Broncos.", 1, 1, 1),
        ("Denver Broncos", "Broncos", 0, 2 / 3, 2 / 3),  # precision 1/2, recall 1
        ("very very big", "very big dog", 0, 2 / 3, 2 / 3),  # "very" is common once
        ("cat", "dog", 0, 0, 0),
        ("", "dog", 0, 0, 0),
        ("cat", "", 0, 0, 0),
        ("", "", 1, 1, 0),  # SQuAD 1.1 has no such question
        ("the", "a", 1, 1, 0),
    ],
)
def test_exact_match_and_f1(prediction, truth, exact, overlap, words):
    assert exact_match(prediction, truth) == exact
    assert f1(prediction, truth) == pytest.approx(overlap)
    assert f1_of_words(prediction, truth) == pytest.approx(words)


def test_the_nearest_of_several_answers_counts():
    assert best_match(f1, "Denver Broncos", ["dog", "Broncos", "Denver"]) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("odds", "answered", "unanswered", "below", "above"),
    [
        ([-3, 1, 2], [1, 0.5, 0], [0, 0, 1], 1, 2),  # the last has no answer
        ([-3, 1, 2], [0, 0, 0], [1, 1, 1], -np.inf, -3),  # none has one
        ([2, -3, 1], [1, 1, 1], [0, 0, 0], 2, np.inf),  # all have one
        ([1, 1, 5], [1, 0, 0], [0, 0.5, 1], 1, 5),  # equal odds are answered together or not at all
    ],
)
def test_the_null_threshold(odds, answered, unanswered, below, above):
    assert below < null_threshold(*map(np.array, (odds, answered, unanswered))) < above
