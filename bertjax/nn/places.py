"""Places of packed rows: what stands at them, and which other places they see."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Shaped

from bertjax.contracts import Window


def gather_tokens(values: Shaped[Array, "B L D"], places: Int[Array, "B K"]) -> Shaped[Array, "B K D"]:
    """What stands at `places` of each row, all of them inside it: to look after others takes loops to compile."""
    return jnp.take_along_axis(values, places[:, :, None], axis=1, mode="promise_in_bounds")


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
