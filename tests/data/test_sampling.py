import pytest

from bertjax.data.sampling import LONGEST, sample
from bertjax.errors import DataError

TEXTS = [f"text {number:05d}" for number in range(4_000)]  # of 10 characters


def test_what_fits_is_all_there():
    assert sample(iter(TEXTS), 40_000) == TEXTS


def test_of_more_a_share_from_everywhere_in_its_order():
    kept = sample(iter(TEXTS), 10_000)
    assert 300 < len(kept) <= 1_000
    assert kept == sorted(kept) == sample(iter(TEXTS), 10_000)
    quarters = [sum(start <= int(text[5:]) < start + 1_000 for text in kept) for start in range(0, 4_000, 1_000)]
    assert min(quarters) > 0.6 * max(quarters)


def test_white_space_and_noise_are_left_out():
    assert sample(["  a\t b\n", "x" * (LONGEST + 1) + " c", " "], 99) == ["a b", "c"]


def test_long_lines_are_cut_between_words():
    """A trainer that compares repeated text letter by letter has never more than LONGEST of it to compare."""
    text = " ".join(["한국어", "text", "x" * LONGEST, "y" * 400] * 5_000)
    lines = sample([text], 10**8)
    assert max(map(len, lines)) == LONGEST
    assert " ".join(lines) == text
    assert len(lines) < 2.5 * len(text) / LONGEST


def test_at_least_a_line_is_left():
    assert len(sample(["a " * 1_000_000], 10)) == 1


def test_no_text():
    for texts in ([], ["", "\n"], ["x" * (LONGEST + 1)]):
        with pytest.raises(DataError, match="the corpus has no text"):
            sample(texts, 10)
