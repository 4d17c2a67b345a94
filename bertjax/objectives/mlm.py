"""BERT's pretraining: masked language model + next sentence prediction (Devlin et al. 2018, section 3.1)."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bertjax.contracts import (
    Batch,
    Corruption,
    Encoded,
    Example,
    Metrics,
    ModelConfig,
    Objective,
    ObjectiveConfig,
)
from bertjax.data.masking import Masking, Vocab, mask_tokens
from bertjax.nn.dense import Dense, truncated_normal
from bertjax.nn.heads import MlmHead, gather_tokens, pool
from bertjax.nn.losses import classification
from bertjax.nn.mlp import ACTIVATIONS


@dataclass(frozen=True)
class Config(ObjectiveConfig):
    """What is masked."""

    masking: Masking = field(default_factory=Masking)

    def masked_fraction(self, length: int) -> float:
        """The slots of a row, used or not, over its length."""
        return self.masking.slots(length) / length

    def build(self, model: ModelConfig) -> "MlmNsp":
        """The module over an encoder of `model`."""
        return MlmNsp(encoder=model.build(), model=model)

    def corruption(self, vocab: Vocab, length: int) -> Corruption:
        """Masks an example anew each time it is called with another generator."""
        return partial(_corrupt, vocab=vocab, slots=self.masking.slots(length), masking=self.masking)


def _corrupt(
    example: Example, rng: np.random.Generator, progress: float, *, vocab: Vocab, slots: int, masking: Masking
) -> Example:
    tokens, positions, targets, weights = mask_tokens(
        example["tokens"], rng, vocab=vocab, masking=masking, slots=slots, progress=progress
    )
    masked = {"masked_positions": positions, "masked_targets": targets, "masked_weights": weights}
    return {**example, "tokens": tokens, **masked}


class MlmNsp(Objective):
    """The encoder with its two pretraining heads."""

    loss_terms = ("mlm_loss", "nsp_loss")

    encoder: Any
    model: ModelConfig

    def setup(self) -> None:
        m = self.model
        init, dtype = truncated_normal(m.init_std), jnp.dtype(m.dtype)
        self.mlm = MlmHead(m.width, m.vocab_size, ACTIVATIONS[m.activation], m.norm_epsilon, init, dtype)
        self.pooler = Dense((m.width,), (m.width,), init, dtype)
        self.nsp = Dense((m.width,), (2,), init, dtype)

    def loss_weights(self, batch: Batch) -> dict[str, jax.Array]:
        return {"mlm_loss": jnp.sum(batch["masked_weights"]), "nsp_loss": jnp.sum(batch["next_weights"])}

    def __call__(self, batch: Batch, *, train: bool) -> Metrics:
        hidden = self.encoder(batch, train=train).hidden
        return {
            **classification("mlm", self.mlm_logits(hidden, batch), batch["masked_targets"], batch["masked_weights"]),
            **classification("nsp", self.nsp_logits(hidden, batch), batch["next_labels"], batch["next_weights"]),
        }

    def mlm_logits(self, hidden: jax.Array, batch: Batch) -> jax.Array:
        """f32[B,M,V]; masked positions are gathered before the projection, which is most of a small model's work."""
        return self.mlm(gather_tokens(hidden, batch["masked_positions"]), self.encoder.attend)

    def nsp_logits(self, hidden: jax.Array, batch: Batch) -> jax.Array:
        """f32[B,S,2] from the first token of each packed sequence."""
        return self.nsp(pool(self.pooler, hidden, batch["first_tokens"])).astype(jnp.float32)

    def encode(self, batch: Batch) -> tuple[Encoded, jax.Array]:
        encoded = self.encoder(batch, train=False)
        return encoded, pool(self.pooler, encoded.hidden, batch["first_tokens"])[:, 0]

    def fill(self, batch: Batch) -> jax.Array:
        """f32[B,M,V] at batch["masked_positions"], without dropout."""
        return self.mlm_logits(self.encoder(batch, train=False).hidden, batch)
