"""Embedding tables and their sum (BERT section 3, figure 2)."""

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from bertjax.contracts import LANES, Batch, Compute
from bertjax.initial import Initializer
from bertjax.nn.dense import kernel_gradient
from bertjax.nn.dropout import Dropout
from bertjax.nn.lookup import picked, picked_by_product, picked_on_gpu
from bertjax.nn.norm import LayerNorm
from bertjax.nn.params import Module
from bertjax.nn.places import platform_of, spread

SMALL = 1024  # rows of a table up to which looking up by a product costs little (BERT-base, 512 rows: 0.2% of the work)


class Table(Module):
    """A table f32[rows, width], looked up by id or used as the output projection."""

    rows: int
    width: int
    initializer: Initializer
    dtype: jnp.dtype
    compute: Compute = Compute()

    def setup(self) -> None:
        self.table = self.param("table", self.initializer, (self.rows, self.width), jnp.float32)

    def __call__(self, ids: jax.Array) -> jax.Array:
        """f[..., width] of ids i32[...], all of them rows of the table."""
        mesh, table = self.compute.mesh, put_together(self.table, ids.size, self.compute)
        if self.rows > SMALL and platform_of(mesh) == "gpu":
            return picked_on_gpu(ids, table, self.dtype, mesh)
        by_row, by_product = (partial(f, dtype=self.dtype) for f in (picked, picked_by_product))
        if self.rows > SMALL:
            return by_row(ids, table)
        return jax.lax.platform_dependent(ids, table, cpu=by_row, default=by_product)

    def attend(self, hidden: jax.Array) -> jax.Array:
        """f[..., width] -> f32[..., rows]: scores of every row.

        On a CPU without tiles: copying table and scores takes longer than they save (6% of a small model's step).
        """
        table = put_together(self.table, math.prod(hidden.shape[:-1]), self.compute)
        if table is self.table:  # a device of `fsdp` has some of its rows, and scores them for the places of all
            as_made = spread(hidden, self.compute.mesh)
            hidden = spread(as_made, self.compute.mesh, but=("fsdp",))
        flat, tiled = (flat_scores, tiled_scores) if self.dtype == jnp.float32 else (narrow_scores, narrow_tiled_scores)
        return jax.lax.platform_dependent(hidden, table, cpu=flat, default=tiled)


def put_together(table: jax.Array, places: int, compute: Compute) -> jax.Array:
    """A table f32[rows, width] that `fsdp` cuts, as each device needs it for so many places of the batch on the mesh.

    For many that is the whole table, or a part of `tensor`. Left to itself XLA sends hidden states and their gradients
    instead, which in a large batch are many times the table; in a small one they are less.
    """
    mesh, rows = compute.mesh, len(table)
    if not mesh or mesh.shape["fsdp"] == 1 or rows % (mesh.shape["fsdp"] * mesh.shape["tensor"]) or 2 * places < rows:
        return table
    return jax.lax.with_sharding_constraint(table, NamedSharding(mesh, P("tensor", None)))


def flat_scores(hidden: jax.Array, table: jax.Array) -> jax.Array:
    """The same as `scores` on flattened rows: otherwise XLA copies the gradient of the scores, transposed, on a CPU."""
    return scores(hidden.reshape(-1, hidden.shape[-1]), table).reshape(*hidden.shape[:-1], len(table))


def scores(hidden: jax.Array, table: jax.Array) -> jax.Array:
    """f32[..., rows] of hidden states f[..., width] and a table f[rows, width]."""
    return jnp.einsum("...d,vd->...v", hidden, table, preferred_element_type=jnp.float32)


def tiled_scores(hidden: jax.Array, table: jax.Array) -> jax.Array:
    """The same, computed in whole tiles of LANES columns."""
    return scores(hidden, _tiled(table, LANES))[..., : len(table)]


def _tiled(table: jax.Array, tile: int) -> jax.Array:
    return jnp.pad(table, ((0, -len(table) % tile), (0, 0)))


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def narrow_scores(hidden: jax.Array, table: jax.Array, tile: int = 1) -> jax.Array:
    """The same of bf16[..., width] and f32[rows, width], the gradient of which is float32.

    That of the scores, the largest array of a step, is rounded as the hidden states are: left to itself JAX multiplies
    it as float32 (on GPUs at half the speed) and rounds that of the table.
    """
    return _forward(hidden, table, tile)[0]


def _forward(hidden: jax.Array, table: jax.Array, tile: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    narrow = _tiled(table.astype(hidden.dtype), tile)
    return scores(hidden, narrow)[..., : len(table)], (hidden, narrow)


def _backward(tile: int, kept: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    del tile
    (hidden, narrow), rows = kept, gradient.shape[-1]
    tail = [(0, 0)] * hidden.ndim
    tail[-1] = 0, len(narrow) - rows
    gradient = jnp.pad(gradient.astype(hidden.dtype), tail)
    of_hidden = jnp.einsum("...v,vd->...d", gradient, narrow)
    return of_hidden, kernel_gradient(gradient, hidden, hidden.ndim - 1)[:rows]


narrow_scores.defvjp(_forward, _backward)
narrow_tiled_scores = partial(narrow_scores, tile=LANES)


class Embeddings(nn.Module):
    """Tokens + types + learned positions, then LayerNorm, then dropout: f[B,L,D]. With one type all are of it."""

    vocab_size: int
    type_count: int
    max_length: int
    width: int
    dropout: float
    norm_epsilon: float
    initializer: Initializer
    dtype: jnp.dtype
    compute: Compute = Compute()

    def setup(self) -> None:
        def table(rows: int) -> Table:
            return Table(rows, self.width, self.initializer, self.dtype, self.compute)

        self.tokens = table(self.vocab_size)
        self.types = table(self.type_count)
        self.positions = table(self.max_length)
        self.norm = LayerNorm(self.norm_epsilon, self.dtype)
        self.drop = Dropout(self.dropout)

    def __call__(self, batch: Batch, *, train: bool) -> jax.Array:
        types = batch["types"] if self.type_count > 1 else jnp.zeros_like(batch["types"])
        total = self.tokens(batch["tokens"]) + self.types(types) + self.positions(batch["positions"])
        return self.drop(self.norm(total), train=train)
