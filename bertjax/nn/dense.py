"""Linear layers whose kernels are born in the shape they keep, heads included."""

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from bertjax.initial import ONES, ZEROS, Initializer
from bertjax.nn.params import Module


def product(x: jax.Array, kernel: jax.Array, inputs: int) -> jax.Array:
    """f[..., *inputs] times f32[*inputs, *outputs] -> f[..., *outputs]; `inputs` is how many axes these are.

    The gradient of the kernel is float32 whatever `x` is, also on its way between devices that share the kernel (FSDP),
    and computed in its own way on a CPU (`turned_gradient`).
    """
    seen = jax.lax.stop_gradient(kernel)
    if x.dtype != kernel.dtype:
        # Rounded in memory, once: else XLA does it in each product, from twice the bytes, for each block of rows anew.
        # By its estimate for v5e a step of BERT-base (512 x 128 a chip) takes 4% fewer cycles so.
        seen = jax.lax.optimization_barrier(seen.astype(x.dtype))
    y = jnp.tensordot(x, seen, axes=inputs)
    return _with_gradient_of(kernel, y, x, x.ndim - inputs)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _with_gradient_of(kernel: jax.Array, y: jax.Array, x: jax.Array, rows: int) -> jax.Array:
    """`y`, of which `kernel` gets a gradient as well; `x` gets its own through what made `y`."""
    del kernel, x, rows
    return y


def _forward(kernel: jax.Array, y: jax.Array, x: jax.Array, rows: int) -> tuple[jax.Array, jax.Array]:
    del kernel, rows
    return y, x


def _backward(rows: int, x: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array, None]:
    of_kernel = jax.lax.platform_dependent(
        x, gradient, cpu=partial(turned_gradient, rows=rows), default=partial(kernel_gradient, rows=rows)
    )
    return of_kernel, gradient, None


_with_gradient_of.defvjp(_forward, _backward)


def kernel_gradient(x: jax.Array, gradient: jax.Array, rows: int) -> jax.Array:
    """f32[*inputs, *outputs] of f[..., *inputs] and the gradient f[..., *outputs]; `rows` is how many axes ... are."""
    return jnp.tensordot(x, gradient, axes=(tuple(range(rows)),) * 2, preferred_element_type=jnp.float32)


def turned_gradient(x: jax.Array, gradient: jax.Array, rows: int) -> jax.Array:
    """The same, of the narrower of the two transposed first, in memory.

    XLA's fast product on a CPU wants the rows as the last axis of its left side, and gives its result as it is written.
    Left to itself XLA takes another product, half as fast (BERT-base's feed-forward: 109 for 51 ms), or transposes the
    wider array inside what computes it. A step of BERT-mini takes 8% less time so.
    """
    barrier = jax.lax.optimization_barrier  # else it is put together again
    times = partial(jnp.tensordot, axes=rows, preferred_element_type=jnp.float32)
    if math.prod(x.shape[rows:]) <= math.prod(gradient.shape[rows:]):
        return times(barrier(_rows_last(x, rows)), gradient)
    across = times(barrier(_rows_last(gradient, rows)), x)
    return _rows_last(barrier(across), gradient.ndim - rows)


def _rows_last(x: jax.Array, rows: int) -> jax.Array:
    """The first `rows` axes behind the others."""
    return jnp.moveaxis(x, range(rows), range(-rows, 0))


class Dense(Module):
    """f[..., *inputs] -> f[..., *outputs]: kernel [*inputs, *outputs], bias [*outputs]."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    initializer: Initializer
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", self.initializer, (*self.inputs, *self.outputs), jnp.float32)
        bias = self.param("bias", ZEROS, self.outputs, jnp.float32)
        # Added in float32, so that its gradient is summed so: in bfloat16 a sum stops growing at some hundred rows.
        return (product(x.astype(self.dtype), kernel, len(self.inputs)) + bias).astype(self.dtype)


class LayerNorm(Module):
    """Layer normalisation over the last axis (Ba et al. 2016), its statistics in float32 whatever `dtype` is."""

    epsilon: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", ONES, (x.shape[-1],), jnp.float32)
        bias = self.param("bias", ZEROS, (x.shape[-1],), jnp.float32)
        wide = x.astype(jnp.float32)
        centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        return (centred * jax.lax.rsqrt(variance + self.epsilon) * scale + bias).astype(self.dtype)
