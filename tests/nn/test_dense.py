"""Dense layers: initialisation, shapes, and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import BF16, F32, apply, init

from bertjax.initial import TruncatedNormal
from bertjax.nn.dense import Dense, kernel_gradient, product, turned_gradient


@pytest.mark.parametrize(
    ("inputs", "outputs", "equation"),
    [((6,), (5,), "bld,de->ble"), ((6,), (2, 3), "bld,dnh->blnh"), ((2, 3), (6,), "blnh,nhd->bld")],
)
def test_kernels_keep_their_axes(inputs, outputs, equation):
    dense = Dense(inputs, outputs, TruncatedNormal(1.0), F32)
    x = np.random.default_rng(1).normal(size=(2, 4, *inputs)).astype(np.float32)
    params = init(dense, x)["params"]
    assert jax.tree.map(jnp.shape, params) == {"kernel": (*inputs, *outputs), "bias": outputs}
    expected = np.einsum(equation, np.float64(x), np.float64(params["kernel"])) + np.float64(params["bias"])
    np.testing.assert_allclose(apply(dense, {"params": params}, x), expected, rtol=1e-5, atol=1e-5)


def test_activations_in_bfloat16_weights_in_float32():
    dense = Dense((4,), (3,), TruncatedNormal(1.0), BF16)
    y, variables = dense.init_with_output(jax.random.key(0), jnp.ones((2, 4)))
    assert y.dtype == jnp.bfloat16
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(variables))
    np.testing.assert_array_equal(variables["params"]["bias"], 0)


@pytest.mark.parametrize(("inputs", "outputs"), [((3,), (2, 4)), ((2, 4), (3,)), ((5,), (5,))])
def test_gradients_are_those_of_the_product(inputs, outputs):
    x, kernel, upper = (
        jax.random.normal(jax.random.key(seed), shape)
        for seed, shape in enumerate([(6, 7, *inputs), (*inputs, *outputs), (6, 7, *outputs)])
    )
    plain, expected = jax.vjp(lambda x, kernel: jnp.tensordot(x, kernel, axes=len(inputs)), x, kernel)
    ours, gradients = jax.vjp(lambda x, kernel: product(x, kernel, len(inputs), F32), x, kernel)
    np.testing.assert_array_equal(ours, plain)
    for gradient, right in zip(gradients(upper), expected(upper), strict=True):
        np.testing.assert_allclose(gradient, right, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(kernel_gradient(x, upper, 2), expected(upper)[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("gradient_of", [kernel_gradient, turned_gradient])
def test_what_comes_of_bfloat16_is_summed_in_float32(gradient_of):
    x, upper = (jax.random.normal(jax.random.key(seed), (64, 5), BF16) for seed in range(2))
    exact = jnp.einsum("ti,to->io", x.astype(F32), upper.astype(F32))
    np.testing.assert_allclose(gradient_of(x, upper, 1), exact, rtol=1e-5, atol=1e-5)
    for dtype in (F32, BF16):
        y, pull = jax.vjp(lambda x, kernel, to=dtype: product(x, kernel, 1, to), x, jnp.ones((5, 5), F32))
        assert y.dtype == dtype
        of_x, of_kernel = pull(upper.astype(dtype))
        assert of_x.dtype == BF16
        np.testing.assert_allclose(of_kernel, exact, rtol=1e-5, atol=1e-5)


def test_nor_is_that_of_a_bias():
    dense = Dense((1,), (3,), TruncatedNormal(1.0), BF16)
    params = init(dense, jnp.ones((4096, 1)))
    upper = jnp.full((4096, 3), 1.0, BF16)
    y, pull = jax.vjp(lambda params: dense.apply(params, jnp.ones((4096, 1))), params)
    assert y.dtype == BF16
    np.testing.assert_array_equal(pull(upper)[0]["params"]["bias"], 4096)
