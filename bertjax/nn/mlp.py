"""The position-wise feed-forward block and the activations it can use."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from bertjax.contracts import Compute
from bertjax.initial import Initializer
from bertjax.nn.dense import Dense

Activation = Callable[[jax.Array], jax.Array]

ACTIVATIONS: dict[str, Activation] = {
    "gelu": partial(jax.nn.gelu, approximate=False),  # erf, as published checkpoints are evaluated
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),  # as in google-research/bert; logits differ by about 1e-3
    "relu": jax.nn.relu,
}


class Mlp(nn.Module):
    """f[B,L,D] -> f[B,L,D] through a hidden layer of `hidden` units."""

    width: int
    hidden: int
    activation: Activation
    initializer: Initializer
    dtype: jnp.dtype
    compute: Compute = Compute()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = Dense((self.width,), (self.hidden,), self.initializer, self.dtype, name="in")(x)
        out = Dense((self.hidden,), (self.width,), self.initializer, self.dtype, name="out")

        def second_half(out: Dense, x: jax.Array) -> jax.Array:
            return out(self.activation(x))

        return (nn.remat(second_half) if self.compute.remat == "dots" else second_half)(out, x)
