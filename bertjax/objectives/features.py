"""An encoder for its hidden states: what weights without a head are loaded as. There is nothing to train it by."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from bertjax.contracts import Batch, Encoded, Metrics, ModelConfig, Objective, ObjectiveConfig
from bertjax.initial import TruncatedNormal
from bertjax.nn.dense import Dense
from bertjax.nn.heads import pooled


@dataclass(frozen=True)
class Config(ObjectiveConfig):
    """What stands on the encoder."""

    pooler: bool = True
    """a dense layer and tanh over the first token"""

    def build(self, model: ModelConfig) -> "Features":
        """The module over an encoder of `model`."""
        return Features(encoder=model.build(), model=model, config=self)


class Features(Objective):
    """The encoder, with its pooler where it has one."""

    config: Config

    def setup(self) -> None:
        m = self.model
        if self.config.pooler:
            self.pooler = Dense((m.width,), (m.width,), TruncatedNormal(m.init_std), jnp.dtype(m.dtype))

    def loss_weights(self, batch: Batch) -> dict[str, jax.Array]:
        return {}

    def __call__(self, batch: Batch, *, train: bool) -> Metrics:
        self.encode(batch)
        return {}

    def encode(self, batch: Batch) -> tuple[Encoded, jax.Array | None]:
        encoded = self.encoder(batch, train=False)
        if not self.config.pooler:
            return encoded, None
        return encoded, pooled(self.pooler, encoded.hidden, batch)
