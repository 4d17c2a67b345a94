"""Dropout whose mask is a counter hash (keys.py), whatever kind of key it is given."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from bertjax.keys import counted


def hash_bits(seeds: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """u32[shape] of random bits: a function of (seeds u32[2], index), so it does not depend on how arrays are sharded.

    The seeds are taken as they are: the data of a key that has come of another one, as those of a module's `make_rng`.
    """
    return counted(seeds, shape, _rows_before(shape[0]))


def _rows_before(rows: int) -> jax.Array | int:
    """Where a program is written for one device of many (shard_map), those of the devices before it."""
    axes = jax.sharding.get_abstract_mesh().manual_axes
    return jax.lax.axis_index(axes).astype(jnp.uint32) * jnp.uint32(rows) if axes else 0


def dropped(x: jax.Array, seeds: jax.Array | None, rate: float) -> jax.Array:
    """f[B,...] with a share `rate` of its elements zero, as `seeds` u32[2] say, and the others over 1 - rate."""
    if seeds is None:
        return x
    keep = hash_bits(seeds, x.shape) >= jnp.uint32(round(rate * 2**32))
    return jnp.where(keep, x / (1.0 - rate), 0.0).astype(x.dtype)


class Dropout(nn.Module):
    """`dropped` where a model is trained, differently at each place and step."""

    rate: float

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return dropped(x, self.seeds(train=train), self.rate)

    def seeds(self, *, train: bool) -> jax.Array | None:
        """u32[2], or None where nothing is dropped."""
        return jax.random.key_data(self.make_rng("dropout")) if train and self.rate else None
