"""Rows looked up by id: all ways give the same rows, and the same gradient of the table."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import BF16, F32
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from bertjax.contracts import Compute
from bertjax.initial import TruncatedNormal
from bertjax.nn import embed
from bertjax.nn.embed import SMALL, Table
from bertjax.nn.lookup import added_by_id, picked, picked_by_product, picked_on_gpu
from bertjax.nn.places import gather_tokens
from bertjax.train.mesh import ROWS, MeshConfig, make_mesh, spec_for

WIDTH = 16


def gradient(ids, table, weights, way):
    return jax.grad(lambda table: (way(ids, table) * weights).astype(F32).sum())(table)


@pytest.mark.parametrize(("dtype", "rounding"), [(F32, 1e-6), (BF16, 2**-8)])
def test_rows_picked_by_a_product_are_the_rows(dtype, rounding):
    rng = np.random.default_rng(3)
    ids, table = jnp.asarray(rng.integers(0, 7, (3, 50))), jnp.asarray(rng.normal(size=(7, WIDTH)), F32)
    by_row, by_product = (partial(f, dtype=dtype) for f in (picked, picked_by_product))
    products = by_product(ids, table)
    assert products.dtype == dtype
    np.testing.assert_array_equal(products, by_row(ids, table))
    weights = jnp.asarray(rng.normal(size=products.shape), dtype)
    got, right = (gradient(ids, table, weights, way) for way in (by_product, by_row))
    np.testing.assert_allclose(got, right, rtol=rounding, atol=1e-5)


@pytest.mark.parametrize("shape", [(1,), (2,), (5,), (3, 43), (8, 64)])
@pytest.mark.parametrize("most", [1, 3, 40])
def test_what_is_added_to_a_row_is_all_of_its_id(shape, most):
    rng = np.random.default_rng(most)
    ids = jnp.asarray(np.minimum(rng.zipf(1.3, shape) - 1, most - 1), jnp.int32)
    parts = jnp.asarray(rng.normal(size=(*shape, WIDTH)), BF16)
    exact = np.zeros((40, WIDTH))
    np.add.at(exact, ids, np.float64(parts))
    got = jax.jit(partial(added_by_id, rows=40))(ids, parts)
    assert got.dtype == F32
    np.testing.assert_allclose(got, exact, rtol=1e-5, atol=1e-5)
    few = jax.jit(partial(added_by_id, rows=9))(ids - 2, parts)  # those of another device are none
    np.testing.assert_allclose(few, exact[2:11], rtol=1e-5, atol=1e-5)


MESHES = [{"data": 8}, {"data": 2, "fsdp": 4}, {"fsdp": 2, "seq": 2, "tensor": 2}, {"tensor": 3}, {"data": 3}]


@pytest.mark.parametrize("sizes", [None, *MESHES], ids=str)
def test_the_gradient_of_a_gpu_is_the_same_on_every_mesh(sizes):
    rng = np.random.default_rng(0)
    ids = jnp.asarray(rng.integers(0, 40, (8, 32)), jnp.int32)
    table, weights = (jnp.asarray(rng.normal(size=size), F32) for size in [(40, WIDTH), (8, 32, WIDTH)])
    right = gradient(ids, table, weights, partial(picked, dtype=F32))
    mesh = sizes and make_mesh(MeshConfig(**sizes))
    if mesh and sizes != {"data": 3}:  # whose rows cannot be cut
        places = P(*ROWS, "seq")
        ids, weights = (jax.device_put(x, NamedSharding(mesh, places)) for x in (ids, weights))
        table = jax.device_put(table, NamedSharding(mesh, spec_for("embed/tokens/table", table.shape, mesh)))
    way = partial(picked_on_gpu, dtype=F32, mesh=mesh)
    np.testing.assert_array_equal(jax.jit(way)(ids, table), picked(ids, table, F32))
    got = jax.jit(partial(gradient, way=way))(ids, table, weights)
    np.testing.assert_allclose(got, right, rtol=1e-5, atol=1e-5)


def scattering(function, *arguments):
    """The platforms for which something is scattered where it may meet what was scattered before."""
    program = jax.jit(function).trace(*arguments)
    texts = {name: program.lower(lowering_platforms=(name,)).as_text() for name in ("cpu", "tpu", "cuda")}
    meeting = re.compile(r"stablehlo\.scatter.*unique_indices = false")
    return {name for name, text in texts.items() if meeting.search(text)}


@pytest.mark.parametrize(
    ("rows", "platform", "scatter"),
    [(SMALL, "cpu", {"cpu"}), (SMALL + 1, "cpu", {"cpu", "tpu", "cuda"}), (SMALL + 1, "gpu", set())],
)
def test_no_gradient_of_a_table_is_scattered_on_a_gpu_nor_of_a_small_one_on_a_tpu(monkeypatch, rows, platform, scatter):
    monkeypatch.setattr(embed, "platform_of", lambda _: platform)
    module = Table(rows, WIDTH, TruncatedNormal(1.0), BF16, Compute(mesh=make_mesh(MeshConfig(data=1))))
    of_table = jax.grad(lambda t, ids: module.apply({"params": {"table": t}}, ids).astype(F32).sum())
    assert scattering(of_table, jnp.zeros((rows, WIDTH)), jnp.zeros((4, 3), int)) == scatter


def test_tokens_gathered_on_a_gpu_are_the_same_and_scatter_no_gradient(monkeypatch):
    rng = np.random.default_rng(0)
    values, weights = (jnp.asarray(rng.normal(size=shape), F32) for shape in [(2, 5, 8), (2, 3, 8)])
    places = jnp.array([[4, 0, 0], [2, 3, 1]])

    def both(values):
        return jax.value_and_grad(lambda values: jnp.sum(gather_tokens(values, places) * weights))(values)

    assert scattering(both, values) == {"cpu", "tpu"}
    expected = both(values)
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *arguments, default, **others: default(*arguments))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), both(values), expected)
