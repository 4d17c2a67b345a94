"""Multi-head attention (Vaswani et al. 2017, section 3.2) inside the sequences packed in a row."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from bertjax.contracts import Compute, Window
from bertjax.initial import Initializer
from bertjax.nn import attend
from bertjax.nn.dense import Dense
from bertjax.nn.dropout import Dropout
from bertjax.nn.places import by_length, whole_rows


class Asking(NamedTuple):
    """The tokens of each row that attend to all of it, where not all of them do."""

    hidden: jax.Array  # f[B,K,D]
    places: jax.Array  # i32[B,K]


class Attention(nn.Module):
    """Self-attention f[B,L,D] -> f[B,L,D], or f[B,K,D] where K of the tokens are asking; dropout on the probabilities.

    The three projections are three products. Made into one by hand they took as long on a CPU (mini 8 x 128: 0.67 CPU-s
    a step either way), and by XLA's estimate for v5e 13% more cycles (BERT-base, 64 x 128 a chip, both ways).
    """

    width: int
    heads: int
    dropout: float
    initializer: Initializer
    dtype: jnp.dtype
    window: Window = None
    compute: Compute = Compute()

    def setup(self) -> None:
        head_axes = (self.heads, self.width // self.heads)
        self.query = Dense((self.width,), head_axes, self.initializer, self.dtype)
        self.key = Dense((self.width,), head_axes, self.initializer, self.dtype)
        self.value = Dense((self.width,), head_axes, self.initializer, self.dtype)
        self.out = Dense(head_axes, (self.width,), self.initializer, self.dtype, cut=True)
        self.drop = Dropout(self.dropout)

    def __call__(
        self,
        hidden: jax.Array,
        sequence: jax.Array,
        *,
        train: bool,
        asking: Asking | None = None,
    ) -> jax.Array:
        query = _in_rows(self.query(asking.hidden)) if asking else self.query(hidden)
        key, value = self.key(hidden), self.value(hidden)
        if asking:
            mesh, places = self.compute.mesh, query.shape[1]
            key, value = (whole_rows(by_length(x, mesh), mesh, places) for x in (key, value))
        way = attend.choose(
            self.compute,
            length=hidden.shape[1],
            queries=query.shape[1],
            head_width=self.width // self.heads,
            dtype=self.dtype,
            dropped=train and self.dropout > 0,
            window=self.window,
        )
        read = asking.places if asking else None
        if way == "einsum":
            mixed = attend.einsum(
                query,
                key,
                value,
                sequence,
                read=read,
                window=self.window,
                rate=self.dropout,
                seeds=self.drop.seeds(train=train),
                again=self.compute.remat == "dots",
            )
        else:
            fused = {"cudnn": attend.cudnn, "splash": attend.splash}[way]
            mixed = fused(query, key, value, sequence, mesh=self.compute.mesh, read=read, window=self.window)
        if asking:
            mixed = _in_rows(mixed)
        return self.out(mixed)


def _in_rows(heads: jax.Array) -> jax.Array:
    """f[B,K,N,H] as it is, but lying in memory as [B * K, N * H], and its gradient too.

    Left to itself XLA multiplies on GPUs what lies as [B,N,K,H], in tiles into which some K cannot be cut: compiling
    for an H100 that is not here fails ("Couldn't find output tile sizes").
    """
    b, k, n, h = heads.shape
    return jax.lax.optimization_barrier(heads.reshape(b * k, n * h)).reshape(heads.shape)
