"""Rematerialisation: the same gradients from less memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import DROPOUT, make_batch, random_params

from bertjax.contracts import Compute
from bertjax.nn.blocks import KEPT
from bertjax.objectives import mlm

OBJECTIVE = mlm.Config().build(DROPOUT)
BATCH = jax.tree.map(jnp.asarray, make_batch())
SHAPES = jax.eval_shape(lambda: OBJECTIVE.init(jax.random.key(0), BATCH, train=False))
PARAMS = random_params(SHAPES)


def loss(remat):
    objective = OBJECTIVE.using(Compute(remat=remat))

    def of(params):
        metrics = objective.apply(params, BATCH, train=True, rngs={"dropout": jax.random.key(1)})
        return metrics["mlm_loss"][0] + metrics["nsp_loss"][0]

    return of


def kept(remat):
    """Bytes that the backward pass is given."""
    residuals = jax.eval_shape(lambda params: jax.vjp(loss(remat), params)[1], PARAMS)
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(residuals))


@pytest.fixture(scope="module")
def plain():
    return jax.jit(jax.value_and_grad(loss("none")))(PARAMS)


@pytest.mark.parametrize("remat", KEPT)
def test_loss_and_gradients_are_the_same_with_the_same_dropout(remat, plain):
    value, gradients = jax.jit(jax.value_and_grad(loss(remat)))(PARAMS)
    np.testing.assert_allclose(value, plain[0], rtol=1e-6)
    norm = np.sqrt(sum(float(np.square(g).sum()) for g in jax.tree.leaves(plain[1])))
    for got, expected in zip(jax.tree.leaves(gradients), jax.tree.leaves(plain[1]), strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6 * norm)


def test_less_is_kept():
    # XLA on a CPU undoes it (it merges what is computed twice): what is promised is what the backward pass asks for.
    none, dots, blocks = kept("none"), kept("dots"), kept("blocks")
    assert blocks < dots < none
    rows, length = BATCH["tokens"].shape
    heads, layers = DROPOUT.heads, DROPOUT.layers
    probabilities = 4 * rows * heads * length * length * layers
    assert none - dots > 2 * probabilities  # the scores and what was made of them


def test_parameters_keep_their_names():
    for remat in KEPT:
        objective = OBJECTIVE.using(Compute(remat=remat))
        assert jax.eval_shape(lambda o=objective: o.init(jax.random.key(0), BATCH, train=False)) == SHAPES
