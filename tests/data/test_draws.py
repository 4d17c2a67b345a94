import numpy as np
import pytest
from scipy import stats

from bertjax.data.draws import below, draw, uniform

CHANCE = 1e-4


def test_the_values_are_those_of_splitmix64():
    """The first values of the reference implementation (Vigna's splitmix64.c) from the seed 1234567."""
    reference = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert draw(np.uint64(1234567) + np.zeros(4, np.uint64), 0, np.arange(4)).tolist() == reference


def test_keys_purposes_and_counters_each_make_a_difference():
    keys = np.arange(50, dtype=np.uint64)[:, None]
    seen = [draw(keys, purpose, np.arange(200)) for purpose in range(3)]
    assert len(np.unique(seen)) == 3 * 50 * 200


@pytest.mark.parametrize("keys", [np.arange(10_000), np.random.default_rng(0).integers(2**63, size=10_000)])
def test_draws_are_uniform_and_independent(keys):
    bits = draw(keys.astype(np.uint64)[:, None], 1, np.arange(100))
    assert stats.kstest(uniform(bits).ravel(), "uniform").pvalue > CHANCE
    assert stats.chisquare(np.bincount(below(bits, 30).ravel(), minlength=30)).pvalue > CHANCE
    neighbours = uniform(bits[:, :-1]) * 16 // 1 * 16 + uniform(bits[:, 1:]) * 16 // 1
    assert stats.chisquare(np.bincount(neighbours.ravel().astype(int), minlength=256)).pvalue > CHANCE
    rows = uniform(bits[:-1]) * 16 // 1 * 16 + uniform(bits[1:]) * 16 // 1
    assert stats.chisquare(np.bincount(rows.ravel().astype(int), minlength=256)).pvalue > CHANCE


def test_below_stays_below():
    ends = np.array([0, 2**64 - 1], np.uint64)
    assert below(ends, 30_522).tolist() == [0, 30_521] and uniform(ends).max() < 1
