"""Places of packed rows: what stands at them, and which other places they see."""

import math

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Int, Shaped

from bertjax.contracts import Window


def gather_tokens(values: Shaped[Array, "B L D"], places: Int[Array, "B K"]) -> Shaped[Array, "B K D"]:
    """What stands at `places` of each row, all of them inside it: a check of bounds would add loops to compile.

    On a GPU, where they have gradients, by products: told to add in one order XLA sorts what is scattered (`lookup`).
    """
    if not jnp.issubdtype(values.dtype, jnp.floating):
        return _by_place(values, places)
    return jax.lax.platform_dependent(values, places, cpu=_by_place, tpu=_by_place, default=_by_product)


def _by_place(values: jax.Array, places: jax.Array) -> jax.Array:
    return jnp.take_along_axis(values, places[:, :, None], axis=1, mode="promise_in_bounds")


def _by_product(values: jax.Array, places: jax.Array) -> jax.Array:
    ones = jax.nn.one_hot(places, values.shape[1], dtype=values.dtype)
    return jnp.einsum("bkl,bld->bkd", ones, values, precision=jax.lax.Precision.HIGHEST)


def by_length(values: Shaped[Array, "B L ..."], mesh: Mesh | None) -> Shaped[Array, "B L ..."]:
    """The same, as batches lie on a mesh: a device of `seq` has a part of each row."""
    return _cut(values, mesh, row_axes(mesh, len(values)), "seq") if mesh else values


def alike(values: Shaped[Array, "B K ..."], mesh: Mesh | None) -> Shaped[Array, "B K ..."]:
    """The same, but all devices of `seq` have all of their rows: for what is too little to be shared."""
    return _cut(values, mesh, row_axes(mesh, len(values)), None) if mesh else values


def spread(values: Shaped[Array, "B K ..."], mesh: Mesh | None, but: tuple[str, ...] = ()) -> Shaped[Array, "B K ..."]:
    """The same, but devices of `seq` share the rows, or, where these are too few, the K places; no rows on axes `but`.

    The last layer is computed for a few places, anywhere in a row. Left to itself XLA has each device of `seq` compute
    all of them, and their logits: 3.0 times the work of a step of mini (16 x 512, seq 8), where so it is 1.03 times.
    """
    rows, places = spread_over(mesh, *values.shape[:2], some=True)
    return _cut(values, mesh, tuple(axis for axis in rows if axis not in but), places) if mesh else values


def whole_rows(values: Shaped[Array, "B L ..."], mesh: Mesh | None, places: int) -> Shaped[Array, "B L ..."]:
    """The same, but a device has all of the rows of which `spread` leaves it some of so many places."""
    return _cut(values, mesh, spread_over(mesh, len(values), places, some=True)[0], None) if mesh else values


def spread_over(mesh: Mesh | None, rows: int, places: int, *, some: bool) -> tuple[tuple[str, ...], str | None]:
    """The axes that rows are cut over, none where they do not divide, and the axis that places of each are cut over.

    `some` of the places of a row are looked at, or all of them, which lie `by_length`.
    """
    if mesh is None:
        return (), None
    if some and (every := row_axes(mesh, rows, but=("tensor",))):
        return every, None
    return row_axes(mesh, rows), "seq" if places >= mesh.shape.get("seq", 1) else None


def row_axes(mesh: Mesh, rows: int, but: tuple[str, ...] = ("seq", "tensor")) -> tuple[str, ...]:
    """The axes of a mesh `but` these, where so many rows can be cut over them all, else none."""
    axes = tuple(axis for axis in mesh.shape if axis not in but)
    return axes if rows % math.prod(mesh.shape[axis] for axis in axes) == 0 else ()


def _cut(values: jax.Array, mesh: Mesh, rows: tuple[str, ...], length: str | None) -> jax.Array:
    if mesh.shape.get("seq", 1) == 1 or not rows:
        return values
    rest = [P.UNCONSTRAINED] * (values.ndim - 2)  # heads stay cut by `tensor`
    return jax.lax.with_sharding_constraint(values, NamedSharding(mesh, P(rows, length, *rest)))


def same_sequence(
    sequence: Int[Array, "B L"], window: Window = None, read: Int[Array, "B K"] | None = None
) -> Bool[Array, "B 1 K L"]:
    """Which token may see which: those of its own sequence and window; padding (0) is seen by none.

    K are the places `read` of each row, or all of them.
    """
    return visible_to(*of_queries(sequence, read), sequence, window)


def of_queries(sequence: jax.Array, read: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """The sequence and the place of each query, i32[B,K]: those `read`, or all."""
    if read is None:
        return sequence, jnp.broadcast_to(jnp.arange(sequence.shape[1], dtype=jnp.int32), sequence.shape)
    return gather_tokens(sequence[:, :, None], read)[:, :, 0], read


def visible_to(ids: jax.Array, places: jax.Array, sequence: jax.Array, window: Window) -> jax.Array:
    """bool[B,1,K,L] of queries in the sequences `ids` i32[B,K] at `places` i32[B,K]."""
    visible = (ids[:, :, None] == sequence[:, None, :]) & (sequence > 0)[:, None, :]
    if window is not None:
        ahead = jnp.arange(sequence.shape[1]) - places[:, :, None]
        visible &= (ahead >= -window[0]) & (ahead <= window[1])
    return visible[:, None]


def platform_of(mesh: Mesh | None) -> str:
    """cpu, gpu or tpu: of a mesh's devices, which need not be here, or of this program's."""
    platform: str = mesh.devices.flat[0].platform if mesh else jax.default_backend()
    return "gpu" if platform == "cuda" else platform
