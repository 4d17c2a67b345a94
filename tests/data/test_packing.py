import numpy as np
import pytest

from bertjax.data.packing import most_sequences, one_each, pack


def packed(sizes, length, seed=0):
    """The sizes of the sequences of each row."""
    sizes = np.array(sizes)
    rows = pack(sizes, length=length, rng=np.random.default_rng(seed))
    return [sizes[row].tolist() for row in members_of(rows)]


def members_of(rows):
    return np.split(rows.members, rows.bounds[1:-1])


def lognormal(count, length, seed=0):
    sizes = np.random.default_rng(seed).lognormal(3.6, 0.6, count).astype(np.int64)
    return np.clip(sizes, 5, length)


@pytest.mark.parametrize("length", [8, 64, 512])
def test_every_sequence_has_a_place_and_every_row_fits(length):
    sizes = lognormal(3000, length)
    rows = pack(sizes, length=length, rng=np.random.default_rng(0))
    assert sorted(rows.members.tolist()) == list(range(3000))
    assert rows.bounds[0] == 0 and rows.bounds[-1] == 3000 and (np.diff(rows.bounds) > 0).all()
    assert np.add.reduceat(sizes[rows.members], rows.bounds[:-1]).max() <= length
    assert np.diff(rows.bounds).max() <= most_sequences(length)


def test_a_sequence_goes_to_the_fullest_row_that_has_room():
    assert packed([60, 50, 14, 9, 4], 64) == [[60, 4], [50, 14], [9]]
    assert sorted(packed([40, 40, 24, 20, 4], 64)) == [[40, 20, 4], [40, 24]]
    assert packed([64, 64], 64) == [[64], [64]]


def test_no_row_has_more_sequences_than_it_has_slots_for():
    assert [len(row) for row in packed([5] * 20, 64)] == [8, 8, 4]
    assert (most_sequences(64), most_sequences(8), most_sequences(7)) == (8, 1, 1)


@pytest.mark.parametrize(("length", "fill"), [(128, 0.985), (512, 0.995)])
def test_rows_are_full(length, fill):
    sizes = lognormal(20_000, length)
    assert sizes.sum() / (len(packed(sizes, length)) * length) > fill


def test_rows_differ_from_seed_to_seed_in_who_meets_whom():
    sizes = lognormal(2000, 128)
    one, again, other = (pack(sizes, length=128, rng=np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert (one.members == again.members).all() and (one.bounds == again.bounds).all()
    assert (one.bounds == other.bounds).all(), "the sizes decide how full rows are"
    pairs = [{tuple(sorted(row)) for row in members_of(rows)} for rows in (one, other)]
    assert len(pairs[0] & pairs[1]) < 0.2 * len(pairs[0])


def test_one_each():
    rows = one_each(3)
    assert [row.tolist() for row in members_of(rows)] == [[0], [1], [2]]
