"""Fine-tuning of a whole sequence: classification or regression on the pooled first token (BERT section 4.1)."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from bertjax.contracts import Batch, Encoded, Metrics, ModelConfig, Objective, ObjectiveConfig
from bertjax.errors import ConfigError
from bertjax.nn.dense import Dense, truncated_normal
from bertjax.nn.dropout import Dropout
from bertjax.nn.heads import pool
from bertjax.nn.losses import classification, regression


@dataclass(frozen=True)
class Config(ObjectiveConfig):
    """The head over the pooled output."""

    classes: int = 2
    """number of labels; 0 is regression"""
    dropout: float = 0.1
    """on the pooled output"""

    def __post_init__(self) -> None:
        if self.classes < 0 or self.classes == 1:
            raise ConfigError(f"objective.classes={self.classes}: at least 2 labels, or 0 for regression")

    def build(self, model: ModelConfig) -> "Supervised":
        """The module over an encoder of `model`."""
        return Supervised(encoder=model.build(), model=model, config=self)


class Supervised(Objective):
    """The encoder with its pooler and one dense layer."""

    loss_terms = ("task_loss",)

    encoder: Any
    model: ModelConfig
    config: Config

    def setup(self) -> None:
        m = self.model
        init, dtype = truncated_normal(m.init_std), jnp.dtype(m.dtype)
        self.pooler = Dense((m.width,), (m.width,), init, dtype)
        self.drop = Dropout(self.config.dropout)
        self.classify = Dense((m.width,), (max(1, self.config.classes),), init, dtype)

    def loss_weights(self, batch: Batch) -> dict[str, jax.Array]:
        return {"task_loss": jnp.sum(batch["weights"])}

    def __call__(self, batch: Batch, *, train: bool) -> Metrics:
        logits = self.logits(batch, train=train)
        if self.config.classes:
            return classification("task", logits, batch["labels"], batch["weights"])
        return regression("task", logits[:, 0], batch["labels"], batch["weights"])

    def encode(self, batch: Batch) -> tuple[Encoded, jax.Array | None]:
        encoded = self.encoder(batch, train=False)
        return encoded, pool(self.pooler, encoded.hidden, batch["first_tokens"])[:, 0]

    def logits(self, batch: Batch, *, train: bool = False) -> jax.Array:
        """f32[B,C], or f32[B,1] for regression."""
        pooled = pool(self.pooler, self.encoder(batch, train=train).hidden, batch["first_tokens"])[:, 0]
        return self.classify(self.drop(pooled, train=train)).astype(jnp.float32)
