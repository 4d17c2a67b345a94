"""Linear layers whose kernels are born in the shape they keep, heads included."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

Initializer = Callable[..., jax.Array]


def truncated_normal(std: float) -> Initializer:
    """Normal of `std` cut at two standard deviations and not rescaled, as in BERT: what comes out has 0.88 std."""
    return nn.initializers.truncated_normal(stddev=std)


class Dense(nn.Module):
    """f[..., *inputs] -> f[..., *outputs]: kernel [*inputs, *outputs], bias [*outputs]."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    initializer: Initializer
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", self.initializer, (*self.inputs, *self.outputs), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, self.outputs, jnp.float32)
        y = jnp.tensordot(x.astype(self.dtype), kernel.astype(self.dtype), axes=len(self.inputs))
        return y + bias.astype(self.dtype)


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis (Ba et al. 2016), its statistics in float32 whatever `dtype` is."""

    epsilon: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        wide = x.astype(jnp.float32)
        centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        return (centred * jax.lax.rsqrt(variance + self.epsilon) * scale + bias).astype(self.dtype)
