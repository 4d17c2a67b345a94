"""The feed-forward block, and which GELU is which."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import BF16, F32, apply, init

from bertjax.initial import TruncatedNormal
from bertjax.nn.mlp import ACTIVATIONS, Mlp, gelu

X = np.linspace(-6, 6, 2001).astype(np.float32)
ERF = np.array([0.5 * x * (1 + math.erf(x / math.sqrt(2))) for x in np.float64(X)])
TANH = np.array([0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) for x in np.float64(X)])


@pytest.mark.parametrize(("name", "values"), [("gelu", ERF), ("gelu_tanh", TANH), ("relu", np.maximum(X, 0))])
def test_activations(name, values):
    np.testing.assert_allclose(ACTIVATIONS[name](jnp.asarray(X)), values, rtol=1e-5, atol=2e-6)


def test_gelu_of_bfloat16_is_rounded_once():
    x = jnp.asarray(X[X > -3]).astype(BF16)
    exact = [0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in np.float64(x)]
    np.testing.assert_allclose(np.float64(gelu(x)), exact, rtol=2**-8)


def test_gradient_of_gelu():
    x = np.float64(X)
    expected = 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) + x * np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    np.testing.assert_allclose(jax.vmap(jax.grad(gelu))(jnp.asarray(X)), expected, atol=1e-6)


def test_the_two_gelus_differ():
    x = jnp.asarray(X)
    assert 3e-4 < jnp.abs(ACTIVATIONS["gelu"](x) - ACTIVATIONS["gelu_tanh"](x)).max() < 1e-3


def test_mlp():
    layer = Mlp(8, 24, ACTIVATIONS["gelu"], TruncatedNormal(0.02), F32)
    x = np.random.default_rng(0).normal(size=(2, 3, 8)).astype(np.float32)
    variables = init(layer, x)
    p = jax.tree.map(np.float64, variables["params"])
    inner = x @ p["in"]["kernel"] + p["in"]["bias"]
    inner = 0.5 * inner * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
    np.testing.assert_allclose(apply(layer, variables, x), inner @ p["out"]["kernel"] + p["out"]["bias"], atol=1e-5)
