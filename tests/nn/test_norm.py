"""LayerNorm against its formula in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import BF16, F32, apply

from bertjax.nn.norm import LayerNorm, normalised


def layer_norm(x, scale, bias, epsilon):
    x = np.float64(x)
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + epsilon) * np.float64(scale) + np.float64(bias)


@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("epsilon", [1e-12, 1e-1])
def test_layer_norm(offset, epsilon):
    rng = np.random.default_rng(0)
    x = np.float32(rng.normal(offset, 1, (3, 5, 64)))
    params = {"scale": np.float32(rng.normal(1, 1, 64)), "bias": np.float32(rng.normal(0, 1, 64))}
    y = apply(LayerNorm(epsilon, F32), {"params": params}, x)
    # Near 100 float32 has 7.6e-6 between two numbers: that much of a deviation of 1 is lost before we see it.
    atol = 2e-6 if offset == 0 else 5e-5
    np.testing.assert_allclose(y, layer_norm(x, **params, epsilon=epsilon), rtol=1e-6, atol=atol)


def test_layer_norm_of_bfloat16_has_its_statistics_in_float32():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(30, 1, (4, 768)), jnp.bfloat16)
    params = {"scale": np.ones(768, np.float32), "bias": np.zeros(768, np.float32)}
    y = apply(LayerNorm(1e-12, BF16), {"params": params}, x)
    assert y.dtype == jnp.bfloat16
    expected = layer_norm(np.asarray(x, np.float64), **params, epsilon=1e-12)
    np.testing.assert_allclose(np.asarray(y, np.float64), expected, rtol=2**-8, atol=1e-6)  # one rounding, at the end


@pytest.mark.parametrize(("dtype", "rounding"), [(F32, 1e-5), (BF16, 2**-8)])
def test_gradients_of_layer_norm_are_those_of_its_formula(dtype, rounding):
    rng = np.random.default_rng(0)
    x, upper = jnp.asarray(rng.normal(3, 2, (3, 5, 64)), dtype), jnp.asarray(rng.normal(size=(3, 5, 64)), F32)
    scale, bias = (jnp.asarray(rng.normal(1, 1, 64), F32) for _ in range(2))

    def formula(x, scale, bias):
        centred = x - x.mean(-1, keepdims=True)
        return centred / jnp.sqrt(jnp.square(centred).mean(-1, keepdims=True) + 0.1) * scale + bias

    got, pull = jax.vjp(lambda *inputs: normalised(*inputs, 0.1), x, scale, bias)
    right, exactly = jax.vjp(formula, x.astype(F32), scale, bias)
    np.testing.assert_allclose(got, right, rtol=1e-5, atol=1e-5)
    of_x, *others = pull(upper)
    assert of_x.dtype == dtype
    np.testing.assert_allclose(of_x.astype(F32), exactly(upper)[0], rtol=rounding, atol=1e-5)
    for gradient, wanted in zip(others, exactly(upper)[1:], strict=True):
        np.testing.assert_allclose(gradient, wanted, rtol=1e-5, atol=1e-5)


def test_layer_norm_of_a_constant_is_its_bias():
    y, variables = LayerNorm(1e-12, F32).init_with_output(jax.random.key(0), jnp.full((2, 8), 7.0))
    np.testing.assert_array_equal(y, 0)
    np.testing.assert_array_equal(variables["params"]["scale"], 1)
