"""Rows of a table by id, f[..., width] of ids i32[...], and ways to add up their gradient that suit machines.

All ids are rows of the table f32[rows, width]: there is no check of them, which would add loops.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from bertjax.nn.places import spread_over


def picked(ids: jax.Array, table: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """The rows themselves; their gradient is scattered, as JAX has it."""
    return table.at[ids].get(mode="promise_in_bounds", wrap_negative_indices=False).astype(dtype)


def picked_by_product(ids: jax.Array, table: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """The same as a product with ones and zeros, as google-research/bert looks up types; its gradient is a product too.

    For few rows: on a TPU either way takes as long, on a GPU this is the cheaper one.
    """
    ones = jax.nn.one_hot(ids, len(table), dtype=dtype)
    return jnp.einsum("...r,rd->...d", ones, table.astype(dtype), precision=jax.lax.Precision.HIGHEST)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def picked_on_gpu(ids: Int[Array, "B L"], table: jax.Array, dtype: jnp.dtype, mesh: Mesh | None) -> jax.Array:
    """The same, the gradient added up by `added_by_id`, on each device for its own tokens.

    A GPU scatters in another order each time. Told not to (`compiled.REPEATABLE`), XLA sorts the numbers of a gradient
    by row and unit, not knowing that they come in rows: for BERT-base (256 x 128, 25 million numbers) by 105 kernels,
    each of which reads and writes 300 MB. All else in a step moves 109 GB; so it takes 1.5 GB in place of 69.
    """
    del mesh
    return picked(ids, table, dtype)


def _forward(
    ids: jax.Array, table: jax.Array, dtype: jnp.dtype, mesh: Mesh | None
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    del mesh
    return picked(ids, table, dtype), (ids, table)


def _backward(
    dtype: jnp.dtype, mesh: Mesh | None, kept: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[None, jax.Array]:
    del dtype
    ids, table = kept
    if mesh is None or mesh.size == 1 or jax.sharding.get_abstract_mesh().manual_axes:
        return None, added_by_id(ids, gradient, len(table))
    rows, places = spread_over(mesh, *ids.shape, some=False)
    parts = 1 if len(table) % mesh.shape["tensor"] else mesh.shape["tensor"]
    own = P(rows, places)
    everywhere = P((*rows, places) if places else rows, "tensor" if parts > 1 else None)

    def here(ids: jax.Array, gradient: jax.Array) -> jax.Array:
        """f32[1, rows, width]: of the rows of the table that this device of `tensor` has."""
        count = len(table) // parts
        first = jax.lax.axis_index("tensor") * count if parts > 1 else 0
        return added_by_id(ids - first, gradient, count)[None]

    each = jax.shard_map(here, mesh=mesh, in_specs=(own, own), out_specs=everywhere, check_vma=False)
    return None, each(ids, gradient).sum(axis=0)


picked_on_gpu.defvjp(_forward, _backward)


def added_by_id(ids: Int[Array, "..."], gradient: Float[Array, "... width"], rows: int) -> Float[Array, "rows width"]:
    """f32[rows, width]: what is to be added to each row, always in the same order; of ids that are none, nothing.

    Where equal ids lie side by side each place adds what is 1, 2, 4, ... before it, as far as that is of its id (a
    segmented scan: Hillis & Steele 1986); the last of each id then has all of them.
    """
    ids, flat = ids.reshape(-1), gradient.reshape(-1, gradient.shape[-1])
    order = jnp.argsort(ids)
    ids, sums = ids[order], flat[order].astype(jnp.float32)
    apart = 1
    while apart < len(ids):
        alike = jnp.pad(ids[apart:] == ids[:-apart], (apart, 0))
        before = jnp.pad(sums[:-apart], ((apart, 0), (0, 0)))
        sums = jnp.where(alike[:, None], sums + before, sums)
        apart *= 2
    whole = jnp.append(ids[1:] != ids[:-1], True) & (ids >= 0) & (ids < rows)
    to = jnp.where(whole, ids, rows + jnp.arange(len(ids)))  # what lies behind the table is dropped
    return jnp.zeros((rows, flat.shape[1]), jnp.float32).at[to].set(sums, mode="drop", unique_indices=True)
