"""What stands on an encoder: the pooler, the masked-language-model head, the choice of layers, a vector of a row."""

from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from bertjax.contracts import Batch
from bertjax.initial import ZEROS, Initializer
from bertjax.nn.dense import Dense
from bertjax.nn.mlp import Activation
from bertjax.nn.norm import LayerNorm
from bertjax.nn.params import Module
from bertjax.nn.places import alike, gather_tokens


def mean_pool(hidden: Float[Array, "B L D"], mask: Bool[Array, "B L"]) -> Float[Array, "B D"]:
    """Mean over real tokens; a row without any gives zeros."""
    weights = mask.astype(hidden.dtype)
    total = jnp.einsum("bld,bl->bd", hidden, weights)
    return total / jnp.maximum(weights.sum(axis=1, keepdims=True), 1)


def first_pool(hidden: Float[Array, "B L D"], mask: Bool[Array, "B L"]) -> Float[Array, "B D"]:
    """The first token, [CLS]."""
    return hidden[:, 0]


def max_pool(hidden: Float[Array, "B L D"], mask: Bool[Array, "B L"]) -> Float[Array, "B D"]:
    """The greatest value of each unit over real tokens, of which every row has one."""
    return jnp.max(hidden, axis=1, where=mask[:, :, None], initial=-jnp.inf)


POOLINGS = {"mean": mean_pool, "cls": first_pool, "max": max_pool}
Pooling = Literal["mean", "cls", "max"]
LayerChoice = Literal["last", "sum-last-four", "concat-last-four"]  # of the layers (Devlin et al. 2019, section 5.3)


def chosen_layers(layers: Sequence[jax.Array], which: LayerChoice) -> jax.Array:
    """f[B,L,D] of the last layer or the sum of the last four, or f[B,L,4D], these side by side."""
    if which == "last":
        return layers[-1]
    four = layers[-4:]
    return jnp.concatenate(four, axis=-1) if which == "concat-last-four" else sum(four[1:], start=four[0])


def pool(pooler: Dense, first: jax.Array, mesh: Mesh | None = None) -> jax.Array:
    """f[B,S,D]: tanh of a dense layer over the first token f[B,S,W] of each packed sequence (BERT's pooled output)."""
    return jnp.tanh(pooler(alike(first, mesh)))


def pooled(pooler: Dense, hidden: jax.Array, batch: Batch) -> jax.Array:
    """f[B,D]: the same of the first token alone of each row f[B,L,W]."""
    return pool(pooler, gather_tokens(hidden, batch["first_tokens"]))[:, 0]


PADDING_LOGIT = -1e9  # of rows of the table beyond the vocabulary


class MlmHead(Module):
    """Dense, activation, LayerNorm, the tied token table, a bias of its own: f[B,M,D] -> f32[B,M,V].

    V, the rows of the table, may be more than the vocabulary has (`Compute.padded_vocab_size`).
    """

    width: int
    vocab_size: int
    padded_vocab_size: int
    activation: Activation
    norm_epsilon: float
    initializer: Initializer
    dtype: jnp.dtype

    def setup(self) -> None:
        self.transform = Dense((self.width,), (self.width,), self.initializer, self.dtype)
        self.norm = LayerNorm(self.norm_epsilon, self.dtype)
        self.bias = self.param("bias", ZEROS, (self.padded_vocab_size,), jnp.float32)

    def __call__(self, hidden: jax.Array, attend: Callable[[jax.Array], jax.Array]) -> jax.Array:
        logits = attend(self.norm(self.activation(self.transform(hidden)))) + self.bias
        if self.padded_vocab_size == self.vocab_size:
            return logits
        return jnp.where(jnp.arange(self.padded_vocab_size) < self.vocab_size, logits, PADDING_LOGIT)
