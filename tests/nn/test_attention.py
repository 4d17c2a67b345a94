"""Who sees whom, against plain numpy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import BF16, F32, apply, init

from bertjax.initial import TruncatedNormal
from bertjax.nn.attend import einsum, probabilities
from bertjax.nn.attention import Attention
from bertjax.nn.dropout import dropped
from bertjax.nn.places import same_sequence

WIDTH, HEADS = 16, 2
LAYER = Attention(WIDTH, HEADS, 0.0, TruncatedNormal(0.5), F32)


@pytest.fixture(scope="module")
def params():
    return init(LAYER, jnp.zeros((1, 2, WIDTH)), jnp.ones((1, 2), int), train=False)["params"]


def run(params, x, sequence):
    return np.asarray(apply(LAYER, {"params": params}, x, jnp.asarray(sequence), train=False))


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_same_sequence():
    visible = same_sequence(jnp.array([[1, 1, 2, 0]]))
    expected = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(visible[0, 0], np.array(expected, bool))


def test_attend_is_the_softmax_of_scaled_products():
    query, key = random(2, 3, HEADS, 4, seed=1), random(2, 3, HEADS, 4, seed=2)
    sequence = np.array([[1, 1, 1], [1, 1, 0]])
    scores = np.einsum("bqnh,bknh->bnqk", np.float64(query), np.float64(key)) / np.sqrt(4)
    weights = np.exp(scores) * (sequence > 0)[:, None, None, :]
    weights /= weights.sum(-1, keepdims=True)
    got = np.asarray(probabilities(query, key, same_sequence(jnp.asarray(sequence))))
    np.testing.assert_allclose(got[0], weights[0], rtol=1e-5)
    np.testing.assert_allclose(got[1, :, :2], weights[1, :, :2], rtol=1e-5)
    assert (got[1, :, :2, 2] == 0).all()


def test_probabilities_are_computed_in_float32_whatever_comes_in():
    query, visible = jnp.asarray(random(1, 3, HEADS, 4), BF16), same_sequence(jnp.ones((1, 3), int))
    weights = probabilities(query, query, visible)
    assert weights.dtype == BF16
    np.testing.assert_array_equal(weights, probabilities(query.astype(F32), query.astype(F32), visible).astype(BF16))


@pytest.mark.parametrize("again", [False, True])
def test_the_backward_pass_is_kept_the_probabilities_alone_or_not_even_these(again):
    heads, sequence = [jnp.asarray(random(2, 8, HEADS, 4, seed=s), BF16) for s in range(3)], jnp.ones((2, 8), int)
    _, pull = jax.vjp(lambda *heads: einsum(*heads, sequence, again=again), *heads)
    kept = [x for x in jax.tree.leaves(pull) if x.shape == (2, HEADS, 8, 8)]
    assert [x.dtype for x in kept] == ([] if again else [BF16])


@pytest.mark.parametrize("rate", [0.0, 0.25])
def test_gradients_are_those_of_the_plain_products_with_the_same_dropout(rate):
    heads = [random(2, 5, HEADS, 4, seed=s) for s in range(3)]
    sequence = jnp.array([[1, 1, 2, 2, 2], [1, 1, 1, 1, 0]])
    seeds, real = jnp.array([3, 5], jnp.uint32) if rate else None, (sequence > 0)[:, :, None, None]
    wave = jnp.asarray(random(2, 5, HEADS, 4, seed=9))

    def plain(query, key, value):
        weights = dropped(probabilities(query, key, same_sequence(sequence)), seeds, rate)
        return jnp.einsum("bnqk,bknh->bqnh", weights, value)

    def gradients(attend):
        return jax.jit(jax.grad(lambda *heads: jnp.sum(jnp.where(real, attend(*heads), 0) * wave), (0, 1, 2)))(*heads)

    for again in (False, True):
        ours = partial(einsum, sequence=sequence, seeds=seeds, rate=rate, again=again)
        np.testing.assert_allclose(ours(*heads), plain(*heads), rtol=1e-6)
        for got, expected in zip(gradients(ours), gradients(plain), strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


def test_whole_layer(params):
    x = random(2, 5, WIDTH)
    wide = {name: jax.tree.map(np.float64, params[name]) for name in params}
    q, k, v = (np.einsum("bld,dnh->blnh", x, wide[n]["kernel"]) + wide[n]["bias"] for n in ("query", "key", "value"))
    scores = np.einsum("bqnh,bknh->bnqk", q, k) / np.sqrt(WIDTH / HEADS)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    mixed = np.einsum("bnqk,bknh->bqnh", weights, v)
    expected = np.einsum("blnh,nhd->bld", mixed, wide["out"]["kernel"]) + wide["out"]["bias"]
    np.testing.assert_allclose(run(params, x, np.ones((2, 5), int)), expected, rtol=1e-4, atol=1e-5)


def test_padding_is_seen_by_none(params):
    x = random(1, 6, WIDTH)
    sequence = np.array([[1, 1, 1, 1, 0, 0]])
    other = x.at[:, 4:].set(1e3)
    np.testing.assert_array_equal(run(params, x, sequence)[:, :4], run(params, other, sequence)[:, :4])
    np.testing.assert_allclose(
        run(params, x, sequence)[:, :4], run(params, x[:, :4], sequence[:, :4]), rtol=1e-5, atol=1e-6
    )


def test_packed_sequences_are_as_if_alone(params):
    x = random(1, 9, WIDTH)
    packed = run(params, x, np.array([[1, 1, 1, 1, 2, 2, 2, 0, 0]]))
    for start, stop in ((0, 4), (4, 7)):
        alone = run(params, x[:, start:stop], np.ones((1, stop - start), int))
        np.testing.assert_allclose(packed[:, start:stop], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [F32, BF16])
def test_a_row_of_padding_gives_no_nan(params, dtype):
    layer = LAYER.clone(dtype=dtype)
    sequence = jnp.array([[0, 0, 0], [1, 1, 0]])

    def total(params, x):
        return layer.apply({"params": params}, x, sequence, train=False).astype(F32).sum()

    value, gradients = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(params, random(2, 3, WIDTH) * 100)
    assert all(np.isfinite(np.asarray(x, np.float32)).all() for x in (value, *jax.tree.leaves(gradients)))


def test_dropout_is_on_the_probabilities(params):
    layer = LAYER.clone(dropout=0.5)
    x, sequence = random(4, 8, WIDTH), jnp.ones((4, 8), int)

    def train(key):
        return layer.apply({"params": params}, x, sequence, train=True, rngs={"dropout": jax.random.key(key)})

    np.testing.assert_array_equal(
        layer.apply({"params": params}, x, sequence, train=False), run(params, x, [[1] * 8] * 4)
    )
    assert not np.allclose(train(0), train(1))
    # On the output whole elements would be zero.
    assert (np.asarray(train(0)) != 0).all()
