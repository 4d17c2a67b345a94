"""Multi-head attention (Vaswani et al. 2017, section 3.2) inside the sequences packed in a row."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from bertjax.nn.dense import Dense, Initializer
from bertjax.nn.dropout import Dropout


def same_sequence(sequence: Int[Array, "B L"]) -> Bool[Array, "B 1 L L"]:
    """Which token may see which: those of its own sequence; padding (0) is seen by none."""
    same = sequence[:, :, None] == sequence[:, None, :]
    return (same & (sequence > 0)[:, None, :])[:, None]


def attend(
    query: Float[Array, "B L N H"],
    key: Float[Array, "B L N H"],
    visible: Bool[Array, "B 1 L L"],
) -> Float[Array, "B N L L"]:
    """Attention probabilities in float32; a row that sees nothing (padding) is uniform, never NaN."""
    scores = jnp.einsum("bqnh,bknh->bnqk", query, key, preferred_element_type=jnp.float32)
    scores = scores * query.shape[-1] ** -0.5
    return jax.nn.softmax(jnp.where(visible, scores, jnp.finfo(jnp.float32).min), axis=-1)


class Attention(nn.Module):
    """Self-attention f[B,L,D] -> f[B,L,D]; dropout on the probabilities."""

    width: int
    heads: int
    dropout: float
    initializer: Initializer
    dtype: jnp.dtype

    def setup(self) -> None:
        head_axes = (self.heads, self.width // self.heads)
        self.query = Dense((self.width,), head_axes, self.initializer, self.dtype)
        self.key = Dense((self.width,), head_axes, self.initializer, self.dtype)
        self.value = Dense((self.width,), head_axes, self.initializer, self.dtype)
        self.out = Dense(head_axes, (self.width,), self.initializer, self.dtype)
        self.drop = Dropout(self.dropout)

    def __call__(self, hidden: jax.Array, visible: jax.Array, *, train: bool) -> jax.Array:
        weights = attend(self.query(hidden), self.key(hidden), visible)
        weights = self.drop(weights.astype(self.dtype), train=train)
        return self.out(jnp.einsum("bnqk,bknh->bqnh", weights, self.value(hidden)))
