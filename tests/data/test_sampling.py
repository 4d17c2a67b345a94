import pytest

from bertjax.data.sampling import LONGEST_WORD, sample
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
    assert sample(["  a\t b\n", "x" * (LONGEST_WORD + 1) + " c", " "], 99) == ["a b", "c"]


def test_one_long_line_is_cut():
    assert sample(["a " * 1_000_000], 1_000) == ["a " * 500]


def test_no_text():
    with pytest.raises(DataError, match="no text to learn"):
        sample(["", "\n"], 10)
