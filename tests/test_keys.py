"""Keys whose bits are a counter hash: what is drawn from them is random, and no two of them are alike."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import TINY
from scipy import stats

from bertjax.keys import HASHED, for_rows
from bertjax.objectives import mlm
from bertjax.train.state import init_params

KEY = jax.random.key(5, impl=HASHED)


def words(keys):
    return np.asarray(jax.random.key_data(keys)).reshape(-1, 2)


def bits_are_fair(values):
    ones = [np.mean((values >> b) & 1) for b in range(32)]
    np.testing.assert_allclose(ones, 0.5, atol=5 * 0.5 / np.sqrt(values.size))


def test_keys_of_one_key_are_all_different_and_fair():
    folded = words(jax.vmap(lambda n: jax.random.fold_in(KEY, n))(jnp.arange(1 << 16)))
    split = words(jax.random.split(KEY, 1 << 16))
    both = np.concatenate([folded, split, words(KEY)])
    assert len(np.unique(both, axis=0)) == len(both)
    for each in (folded, split):
        for column in each.T:
            bits_are_fair(column)
        assert abs(np.corrcoef(each.T.astype(np.float64))[0, 1]) < 5 / np.sqrt(len(each))


def test_keys_of_neighbours_are_different_and_fair():
    """Of the same number in keys that differ by little, as seeds do."""
    roots = jnp.stack([jnp.arange(1 << 8, dtype=jnp.uint32).repeat(1 << 8), jnp.tile(jnp.arange(1 << 8), 1 << 8)], 1)
    keys = jax.random.wrap_key_data(roots.astype(jnp.uint32), impl=HASHED)
    folded = words(jax.vmap(lambda key: jax.random.fold_in(key, 7))(keys))
    assert len(np.unique(folded, axis=0)) == len(folded)
    for column in folded.T:
        assert len(np.unique(column)) >= 1 << 8
    bits_are_fair(folded[:, 1])


def test_seeds_make_keys():
    keys = np.concatenate([words(jax.random.key(seed, impl=HASHED)) for seed in (0, 1, 2, -1, 2**31 - 1)])
    assert len(np.unique(keys)) == keys.size
    np.testing.assert_array_equal(words(jax.random.key(2, impl=HASHED))[0], keys[2])


def test_what_is_drawn_is_distributed_as_it_should_be():
    keys = jax.random.split(KEY, 64)
    uniform = np.asarray(jax.vmap(lambda key: jax.random.uniform(key, (1000,)))(keys))
    assert stats.kstest(uniform.ravel(), "uniform").pvalue > 1e-4
    assert stats.kstest(stats.kstest(uniform.T, "uniform").pvalue, "uniform").pvalue > 1e-4
    normal = np.asarray(jax.random.normal(KEY, (100, 1000)))
    assert stats.kstest(normal.ravel(), "norm").pvalue > 1e-4
    assert abs(np.corrcoef(normal[:, :-1].ravel(), normal[:, 1:].ravel())[0, 1]) < 5 / np.sqrt(normal.size)
    assert jax.random.bits(KEY).shape == () and 0 <= jax.random.uniform(KEY) < 1


def test_other_widths_are_refused():
    with pytest.raises(NotImplementedError, match="16 bits an element: ask for 32"):
        jax.random.bits(KEY, (2,), jnp.uint16)


def test_parameters_of_a_model_have_nothing_in_common():
    params = init_params(mlm.Config().build(TINY), seed=0)
    drawn = [np.ravel(leaf) for leaf in jax.tree.leaves(params) if np.std(leaf) > 0]
    drawn = np.stack([leaf[:512] for leaf in drawn if leaf.size >= 512])
    pairs = np.square(np.corrcoef(drawn))[np.triu_indices(len(drawn), 1)] * 512
    assert len(drawn) > 10 and pairs.max() < 25 and abs(pairs.mean() - 1) < 5 * np.sqrt(2 / len(pairs))
    cut = stats.truncnorm(-2, 2, scale=TINY.init_std).cdf
    assert stats.kstest(drawn.ravel(), cut).pvalue > 1e-4


@pytest.mark.parametrize("each", [1, 3])
def test_rows_of_a_batch_have_the_bits_of_the_whole(each):
    def bits(key, rows):
        first, second = jax.random.split(jax.random.fold_in(key, 7))
        return np.stack([jax.random.bits(key, (rows * each, 2, 5)) for key in (key, first, second)], axis=1)

    whole = bits(KEY, 12).reshape(12, each, 3, 2, 5)
    for rows in ([0, 1, 2], [4, 5], [1, 4, 7, 10], [8, 10], [11]):
        key = for_rows(KEY, len(rows), first=jnp.asarray(rows[0]), apart=rows[1] - rows[0] if len(rows) > 1 else 4)
        np.testing.assert_array_equal(bits(key, len(rows)).reshape(-1, each, 3, 2, 5), whole[rows])
    assert len(np.unique(whole)) == whole.size
