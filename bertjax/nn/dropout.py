"""Dropout whose mask is a counter hash (keys.py), whatever kind of key it is given."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from bertjax.keys import counted


def dropped(x: jax.Array, seeds: jax.Array | None, rate: float) -> jax.Array:
    """f[B,...] with a share `rate` of its elements zero, as `seeds` (`keys.counted`) say, and the others / (1 - rate).

    The mask is a function of seeds and index, so it does not depend on how arrays are cut. The seeds are the data of a
    key that has come of another one, as those of a module's `make_rng`: they are taken as they are.
    """
    if seeds is None:
        return x
    keep = counted(seeds, x.shape) >= jnp.uint32(round(rate * 2**32))
    return jnp.where(keep, x / (1.0 - rate), 0.0).astype(x.dtype)


class Dropout(nn.Module):
    """`dropped` where a model is trained, differently at each place and step."""

    rate: float

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return dropped(x, self.seeds(train=train), self.rate)

    def seeds(self, *, train: bool) -> jax.Array | None:
        """The data of a key, or None where nothing is dropped."""
        return jax.random.key_data(self.make_rng("dropout")) if train and self.rate else None
