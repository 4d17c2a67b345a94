"""Dropout whose mask is a counter hash (keys.py), whatever kind of key it is given."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from bertjax.keys import counted


def hash_bits(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """u32[shape] of random bits: a function of (key, index), so it does not depend on how the array is sharded.

    The data of `key` are taken as they are: it must have come of another one, as those of a module's `make_rng` have.
    """
    return counted(jax.random.key_data(key), shape, _rows_before(shape[0]))


def _rows_before(rows: int) -> jax.Array | int:
    """Where a program is written for one device of many (shard_map), those of the devices before it."""
    axes = jax.sharding.get_abstract_mesh().manual_axes
    return jax.lax.axis_index(axes).astype(jnp.uint32) * jnp.uint32(rows) if axes else 0


class Dropout(nn.Module):
    """Zeroes a share `rate` of the elements of f[B,...] and scales the others by 1 / (1 - rate)."""

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if not train or self.rate == 0.0:
            return x
        threshold = jnp.uint32(round(self.rate * 2**32))
        keep = hash_bits(self.make_rng("dropout"), x.shape) >= threshold
        return jnp.where(keep, x / (1.0 - self.rate), 0.0).astype(x.dtype)
