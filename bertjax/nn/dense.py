"""Linear layers whose kernels are born in the shape they keep, heads included."""

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from bertjax.initial import ZEROS, Initializer
from bertjax.nn.params import Module


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def product(x: jax.Array, kernel: jax.Array, inputs: int, dtype: jnp.dtype) -> jax.Array:
    """f[..., *inputs] times f32[*inputs, *outputs] -> f[..., *outputs] of a `dtype`; `inputs` is how many axes these
    are.

    Factors are rounded as `x` is, in both directions. The gradient of the kernel is float32 whatever `x` is, also on
    its way between devices that share the kernel (FSDP), and computed in its own way on a CPU (`turned_gradient`).
    """
    return _forward(x, kernel, inputs, dtype)[0]


def _forward(
    x: jax.Array, kernel: jax.Array, inputs: int, dtype: jnp.dtype
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    if x.dtype != kernel.dtype:
        # Rounded in memory, once: else XLA does it in each product, from twice the bytes, for each block of rows anew.
        # By its estimate for v5e a step of BERT-base (512 x 128 a chip) takes 4% fewer cycles so.
        kernel = jax.lax.optimization_barrier(kernel.astype(x.dtype))
    return jnp.tensordot(x, kernel, axes=inputs, preferred_element_type=dtype), (x, kernel)


def _backward(
    inputs: int, dtype: jnp.dtype, kept: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    del dtype
    x, kernel = kept
    rows, gradient = x.ndim - inputs, gradient.astype(x.dtype)
    outputs = tuple(range(rows, gradient.ndim)), tuple(range(inputs, kernel.ndim))
    of_x = jnp.tensordot(gradient, kernel, axes=outputs)
    of_kernel = jax.lax.platform_dependent(
        x, gradient, cpu=partial(turned_gradient, rows=rows), default=partial(kernel_gradient, rows=rows)
    )
    return of_x, of_kernel


product.defvjp(_forward, _backward)


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
    """f[..., *inputs] -> f[..., *outputs]: kernel [*inputs, *outputs], bias [*outputs].

    With `cut` devices of `tensor` have parts of the inputs, and send each other parts of the sums: rounded to `dtype`.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    initializer: Initializer
    dtype: jnp.dtype
    cut: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", self.initializer, (*self.inputs, *self.outputs), jnp.float32)
        bias = self.param("bias", ZEROS, self.outputs, jnp.float32)
        # Not rounded before the bias is added, so that on a GPU the product's own kernel does that, at no bytes where
        # it took 4% of those of a step of BERT-base.
        sums = product(x.astype(self.dtype), kernel, len(self.inputs), self.dtype if self.cut else jnp.dtype("float32"))
        # Added in float32, so that its gradient is summed so: in bfloat16 a sum stops growing at some hundred rows.
        return (sums + bias).astype(self.dtype)
