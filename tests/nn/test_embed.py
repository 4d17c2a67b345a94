"""Tables looked up and tables as output projections."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import BF16, F32, TINY, apply, init, make_batch

from bertjax.initial import TruncatedNormal
from bertjax.nn.embed import Embeddings, Table, narrow_scores, scores, tiled_scores

WIDTH = 16


@pytest.mark.parametrize("rows", [1, 100, 128, 130])
@pytest.mark.parametrize("shape", [(3,), (2, 4)])
def test_attend_is_the_product_with_the_table(rows, shape):
    table = Table(rows, WIDTH, TruncatedNormal(1.0), F32)
    params = init(table, jnp.zeros((1,), int))
    assert params["params"]["table"].shape == (rows, WIDTH)
    hidden = np.random.default_rng(1).normal(size=(*shape, WIDTH)).astype(np.float32)
    got = apply(table, params, hidden, method="attend")
    assert got.shape == (*shape, rows)
    expected = np.float64(hidden) @ np.float64(params["params"]["table"]).T
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 128, 130])
def test_tiles_of_accelerators_change_nothing(rows):
    rng = np.random.default_rng(2)
    hidden, table = (jnp.asarray(rng.normal(size=(size, WIDTH)), F32) for size in (5, rows))
    total = [jax.value_and_grad(lambda t, f=f: jnp.sin(f(hidden, t)).sum())(table) for f in (scores, tiled_scores)]
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), *total)
    module = Table(rows, WIDTH, TruncatedNormal(1.0), F32)
    program = jax.jit(lambda t, h: module.apply({"params": {"table": t}}, h, method="attend")).trace(table, hidden)
    for platform, columns in (("tpu", -(-rows // 128) * 128), ("cpu", rows)):
        assert f"tensor<5x{columns}xf32>" in program.lower(lowering_platforms=(platform,)).as_text()


def test_scores_of_bfloat16_are_summed_in_float32():
    table = Table(130, WIDTH, TruncatedNormal(1.0), BF16)
    params = init(table, jnp.zeros((1,), int))
    hidden = jax.random.normal(jax.random.key(1), (4, WIDTH), jnp.bfloat16)
    got = apply(table, params, hidden, method="attend")
    rounded = np.float64(jnp.asarray(params["params"]["table"], jnp.bfloat16))
    assert got.dtype == F32
    np.testing.assert_allclose(got, np.float64(hidden) @ rounded.T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tile", [1, 128])
def test_gradients_of_bfloat16_scores_are_of_narrow_products_in_float32(tile):
    rng = np.random.default_rng(5)
    hidden, upper = jnp.asarray(rng.normal(size=(2, 5, WIDTH)), BF16), jnp.asarray(rng.normal(size=(2, 5, 130)), BF16)
    table = jnp.asarray(rng.normal(size=(130, WIDTH)), F32)
    got, pull = jax.vjp(partial(narrow_scores, tile=tile), hidden, table)
    exact, exactly = jax.vjp(scores, hidden.astype(F32), table.astype(BF16).astype(F32))
    np.testing.assert_allclose(got, exact, rtol=1e-5, atol=1e-5)
    of_hidden, of_table = pull(upper.astype(F32))
    assert (of_hidden.dtype, of_table.dtype) == (BF16, F32)
    np.testing.assert_allclose(of_hidden.astype(F32), exactly(upper.astype(F32))[0], rtol=2**-7, atol=2**-7)
    np.testing.assert_allclose(of_table, exactly(upper.astype(F32))[1], rtol=1e-5, atol=1e-5)


def test_gradient_of_attend_reaches_every_row_and_no_more():
    table = Table(130, WIDTH, TruncatedNormal(1.0), F32)
    params = init(table, jnp.zeros((1,), int))
    hidden = jnp.ones((1, WIDTH))
    gradient = jax.grad(lambda p: table.apply(p, hidden, method="attend").sum())(params)["params"]["table"]
    np.testing.assert_array_equal(gradient, np.ones((130, WIDTH)))


def embeddings(dropout=0.0):
    return Embeddings(
        vocab_size=128,
        type_count=2,
        max_length=32,
        width=WIDTH,
        dropout=dropout,
        norm_epsilon=1e-12,
        initializer=TruncatedNormal(0.02),
        dtype=F32,
    )


@pytest.fixture(scope="module")
def variables():
    return init(embeddings(), make_batch(), train=False)


def test_sum_of_three_tables_then_layer_norm(variables):
    p, batch = jax.tree.map(np.float64, variables["params"]), make_batch()
    total = sum(p[n]["table"][batch[n]] for n in ("tokens", "types", "positions"))
    centred = total - total.mean(-1, keepdims=True)
    expected = centred / np.sqrt(total.var(-1, keepdims=True)) * p["norm"]["scale"] + p["norm"]["bias"]
    np.testing.assert_allclose(apply(embeddings(), variables, batch, train=False), expected, rtol=1e-5, atol=1e-5)


def test_dropout_comes_after_layer_norm(variables):
    batch, layer = make_batch(), embeddings(dropout=0.5)
    whole = apply(layer, variables, batch, train=False)
    dropped = np.asarray(apply(layer, variables, batch, train=True, rngs={"dropout": jax.random.key(0)}))
    kept = dropped != 0
    assert 0.4 < kept.mean() < 0.6
    np.testing.assert_allclose(dropped[kept], 2 * np.asarray(whole)[kept], rtol=1e-6, atol=1e-6)


def test_tables_start_as_the_original_does():
    big = Embeddings(
        vocab_size=1000,
        type_count=2,
        max_length=512,
        width=64,
        dropout=0.0,
        norm_epsilon=1e-12,
        initializer=TruncatedNormal(TINY.init_std),
        dtype=F32,
    )
    params = jax.jit(partial(big.init, train=False))(jax.random.key(0), make_batch())["params"]
    for name in ("tokens", "positions"):
        assert float(jnp.std(params[name]["table"])) == pytest.approx(0.0176, rel=0.02)
    assert not np.allclose(params["tokens"]["table"][:512], params["positions"]["table"])


def test_with_one_type_all_tokens_are_of_it():
    sizes = {"vocab_size": 128, "max_length": 16, "width": WIDTH, "dropout": 0.0, "norm_epsilon": 1e-5}
    embed = Embeddings(**sizes, type_count=1, initializer=TruncatedNormal(1.0), dtype=F32)
    batch = make_batch()
    params = init(embed, batch, train=False)
    same = apply(embed, params, {**batch, "types": np.zeros_like(batch["types"])}, train=False)
    assert batch["types"].any()
    np.testing.assert_array_equal(apply(embed, params, batch, train=False), same)
