"""Layers that give what is read of them alone; rematerialisation: the same gradients from less memory."""

from functools import partial

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from helpers import DROPOUT, make_batch, random_params

from bertjax.contracts import Compute
from bertjax.nn.places import gather_tokens
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


def test_gather_tokens():
    hidden = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 8)), jnp.float32)
    got = gather_tokens(hidden, jnp.array([[4, 0, 0], [2, 3, 1]]))
    np.testing.assert_array_equal(got[0], hidden[0, np.array([4, 0, 0])])
    np.testing.assert_array_equal(got[1], hidden[1, np.array([2, 3, 1])])
    with pytest.raises(jaxtyping.TypeCheckError):
        gather_tokens(hidden, jnp.zeros((2, 3)))


def test_what_is_read_of_the_last_layer_is_what_it_gives_for_all():
    """The same states and gradients; that no more is computed is seen by the count of FLOPs (plan/test_program.py)."""
    encoder, params = OBJECTIVE.encoder, PARAMS["params"]["encoder"]
    read = jnp.asarray(np.random.default_rng(1).integers(0, 16, (16, 3)), jnp.int32)

    def total(params, read, *, after):
        hidden = encoder.apply({"params": params}, BATCH, train=False, read=read).hidden
        return jnp.sum(jnp.square(after(hidden))), hidden

    wanted = jax.jit(jax.value_and_grad(partial(total, after=lambda x: x), has_aux=True))
    whole = jax.jit(jax.value_and_grad(partial(total, read=None, after=lambda x: gather_tokens(x, read)), has_aux=True))
    ((value, few), gradients), ((of_all, every), expected) = wanted(params, read), whole(params)
    assert few.shape == (16, 3, DROPOUT.width)
    np.testing.assert_allclose(value, of_all, rtol=1e-6)
    np.testing.assert_allclose(few, gather_tokens(every, read), rtol=1e-5, atol=1e-6)
    largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(expected))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6 * largest), gradients, expected)


@pytest.fixture(scope="module")
def plain():
    return jax.jit(jax.value_and_grad(loss("none")))(PARAMS)


@pytest.mark.parametrize("remat", ["blocks", "dots"])
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
    for remat in ("blocks", "dots"):
        objective = OBJECTIVE.using(Compute(remat=remat))
        assert jax.eval_shape(lambda o=objective: o.init(jax.random.key(0), BATCH, train=False)) == SHAPES
