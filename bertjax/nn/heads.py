"""What stands on an encoder: the pooler, the masked-language-model head, the choice of tokens and sequences."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from bertjax.nn.dense import Dense, Initializer, LayerNorm
from bertjax.nn.mlp import Activation


def gather_tokens(hidden: Float[Array, "B L D"], positions: Int[Array, "B K"]) -> Float[Array, "B K D"]:
    """The hidden states at `positions` of each row."""
    return jnp.take_along_axis(hidden, positions[:, :, None], axis=1)


def mean_pool(hidden: Float[Array, "B L D"], mask: Bool[Array, "B L"]) -> Float[Array, "B D"]:
    """Mean over real tokens; a row without any gives zeros."""
    weights = mask.astype(hidden.dtype)
    total = jnp.einsum("bld,bl->bd", hidden, weights)
    return total / jnp.maximum(weights.sum(axis=1, keepdims=True), 1)


def pool(pooler: Dense, hidden: jax.Array, first_tokens: jax.Array) -> jax.Array:
    """f[B,S,D]: tanh of a dense layer over the first token of each packed sequence (BERT's pooled output)."""
    return jnp.tanh(pooler(gather_tokens(hidden, first_tokens)))


class MlmHead(nn.Module):
    """Dense, activation, LayerNorm, the tied token table, a bias of its own: f[B,M,D] -> f32[B,M,V]."""

    width: int
    vocab_size: int
    activation: Activation
    norm_epsilon: float
    initializer: Initializer
    dtype: jnp.dtype

    def setup(self) -> None:
        self.transform = Dense((self.width,), (self.width,), self.initializer, self.dtype)
        self.norm = LayerNorm(self.norm_epsilon, self.dtype)
        self.bias = self.param("bias", nn.initializers.zeros, (self.vocab_size,), jnp.float32)

    def __call__(self, hidden: jax.Array, attend: Callable[[jax.Array], jax.Array]) -> jax.Array:
        return attend(self.norm(self.activation(self.transform(hidden)))) + self.bias
