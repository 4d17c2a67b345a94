"""Heads on an encoder."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from helpers import BF16, F32, init, random_params

from bertjax.initial import TruncatedNormal
from bertjax.nn.dense import Dense
from bertjax.nn.heads import MlmHead, mean_pool, pool
from bertjax.nn.mlp import ACTIVATIONS

HIDDEN = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 8)), jnp.float32)


def test_mean_pool_over_real_tokens():
    mask = jnp.array([[True, True, False, True, False], [False] * 5])
    got = mean_pool(HIDDEN, mask)
    np.testing.assert_allclose(got[0], HIDDEN[0, np.array([0, 1, 3])].mean(0), rtol=1e-6)
    np.testing.assert_array_equal(got[1], 0)


def test_shapes_are_checked_under_pytest():
    with pytest.raises(jaxtyping.TypeCheckError):
        mean_pool(HIDDEN, jnp.ones((2, 4), bool))


def test_pool_is_tanh_of_a_dense_layer():
    pooler = Dense((8,), (8,), TruncatedNormal(0.02), F32)
    variables = init(pooler, HIDDEN)
    p = jax.tree.map(np.float64, variables["params"])
    expected = np.tanh(HIDDEN @ p["kernel"] + p["bias"])
    np.testing.assert_allclose(pool(pooler.bind(variables), HIDDEN), expected, atol=1e-5)


def head(dtype=F32):
    return MlmHead(8, 11, 11, ACTIVATIONS["relu"], 1e-12, TruncatedNormal(0.02), dtype)


def test_mlm_head_is_tied():
    table = np.random.default_rng(1).normal(size=(11, 8)).astype(np.float32)
    variables = random_params(jax.eval_shape(lambda: head().init(jax.random.key(0), HIDDEN, lambda h: h @ table.T)))
    assert jax.tree.map(jnp.shape, variables["params"]) == {
        "transform": {"kernel": (8, 8), "bias": (8,)},
        "norm": {"scale": (8,), "bias": (8,)},
        "bias": (11,),
    }
    p = jax.tree.map(np.float64, variables["params"])
    x = np.maximum(HIDDEN @ p["transform"]["kernel"] + p["transform"]["bias"], 0)
    x = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True) * p["norm"]["scale"] + p["norm"]["bias"]
    got, pull = jax.vjp(lambda t: head().apply(variables, HIDDEN, lambda h: h @ t.T), table)
    np.testing.assert_allclose(got, x @ table.T + p["bias"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(pull(jnp.ones_like(got))[0], np.tile(x.sum((0, 1)), (11, 1)), rtol=1e-4, atol=1e-4)


def test_mlm_logits_are_float32_where_activations_are_not():
    table = jnp.ones((11, 8), jnp.bfloat16)

    def attend(hidden):
        assert hidden.dtype == BF16
        return jnp.einsum("bld,vd->blv", hidden, table, preferred_element_type=jnp.float32)

    logits, variables = head(BF16).init_with_output(jax.random.key(0), HIDDEN, attend)
    assert logits.dtype == F32
    assert all(x.dtype == F32 for x in jax.tree.leaves(variables))
