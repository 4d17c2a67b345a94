"""How parameters begin: the same distribution in a program and on the host."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from bertjax.initial import ONES, ZEROS, Initializer, TruncatedNormal, note, noted

SHAPE = (1000, 1000)


def in_a_program(initializer, seed=0):
    return np.asarray(jax.jit(lambda key: initializer(key, SHAPE, jnp.float32))(jax.random.key(seed)))


def on_the_host(initializer, seed=0):
    return initializer.drawn(np.random.default_rng(seed), SHAPE)


@pytest.mark.parametrize("draw", [in_a_program, on_the_host])
def test_truncated_normal_is_cut_and_not_rescaled(draw):
    draws = draw(TruncatedNormal(0.02))
    assert draws.dtype == np.float32 and np.abs(draws).max() <= 0.04
    assert np.abs(draws).max() > 0.0399
    # std of a normal cut at two standard deviations: sqrt(1 - 4 pdf(2) / (2 cdf(2) - 1)) = 0.8796
    assert draws.std() == pytest.approx(0.02 * 0.8796, rel=2e-3)
    assert abs(draws.mean()) < 5 * 0.0176 / 1000
    assert stats.kstest(draws[:100].ravel(), stats.truncnorm(-2, 2, scale=0.02).cdf).pvalue > 1e-4
    assert (draw(TruncatedNormal(0.02), seed=1) != draws).mean() > 0.999


@pytest.mark.parametrize("draw", [in_a_program, on_the_host])
@pytest.mark.parametrize(("initializer", "value"), [(ZEROS, 0), (ONES, 1)])
def test_constants(draw, initializer, value):
    draws = draw(initializer)
    assert draws.dtype == np.float32 and draws.shape == SHAPE and np.all(draws == value)


def test_what_is_noted_is_that_of_the_innermost_and_of_nobody_outside():
    assert note(("before",), ONES) is ONES
    with noted() as outer:
        assert note(("a", "b"), ONES) is ZEROS  # where it is only asked for nothing is drawn
        assert note(("of", "others"), print) is print
        with noted() as inner:
            note(("c",), ZEROS)
        note(("d",), ZEROS)
    note(("after",), ZEROS)
    assert outer == {"a/b": ONES, "of/others": print, "d": ZEROS} and inner == {"c": ZEROS}


def test_plain_functions_are_no_initializers():
    assert isinstance(ZEROS, Initializer) and not isinstance(jax.nn.initializers.zeros, Initializer)
