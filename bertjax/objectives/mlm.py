"""Masked language model (Devlin et al. 2018, section 3.1), alone or with BERT's NSP or ALBERT's SOP."""

from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from bertjax.contracts import Batch, Encoded, Metrics, ModelConfig, Objective, ObjectiveConfig
from bertjax.data.contiguous import doc_sentences, full_sentences, segments
from bertjax.data.masking import Masking, Vocab, mask_tokens
from bertjax.data.plan import next_sentence, sentence_order
from bertjax.data.rows import Corruption, HostBatch, Planner
from bertjax.errors import ConfigError, closest
from bertjax.initial import TruncatedNormal
from bertjax.nn.dense import Dense
from bertjax.nn.heads import MlmHead, pool, pooled
from bertjax.nn.losses import classification
from bertjax.nn.mlp import ACTIVATIONS


@dataclass(frozen=True)
class Config(ObjectiveConfig):
    """What a row is made of, and what is masked in it."""

    examples: Literal["nsp", "sop", "full-sentences", "doc-sentences", "segments"] = "nsp"
    """pairs with next sentence prediction (BERT) or sentence order prediction (ALBERT); or masking alone, in sentences
    across documents or of one document (RoBERTa), or in documents cut wherever a row is full"""
    masking: Masking = field(default_factory=Masking)

    def __post_init__(self) -> None:
        if self.examples not in PLANNERS:
            raise ConfigError(f"objective.examples={self.examples!r}{closest(self.examples, PLANNERS)}")

    def masked_fraction(self, length: int) -> float:
        """The slots of a row, used or not, over its length."""
        return self.masking.slots(length) / length

    def read_fraction(self, length: int) -> float:
        """The slots and, for pairs, the first token."""
        firsts = issubclass(MODULES.get(self.examples, Mlm), MlmNsp)
        return min(1.0, (self.masking.slots(length) + firsts) / length)

    def build(self, model: ModelConfig) -> "Mlm":
        """The module over an encoder of `model`."""
        kind = MODULES.get(self.examples, Mlm)
        if kind is not Mlm and model.type_count < 2:
            raise ConfigError(
                f"model.type_count={model.type_count} but objective.examples={self.examples!r} are pairs of two types; "
                "set model.type_count=2"
            )
        return kind(encoder=model.build(), model=model)

    def planner(self) -> Planner:
        """Makes the sequences of an epoch out of a shard."""
        return PLANNERS[self.examples]

    def corruption(self, vocab: Vocab, length: int) -> Corruption:
        """Masks rows anew each time it is called with other keys."""
        return partial(_corrupt, vocab=vocab, slots=self.masking.slots(length), masking=self.masking)


def _corrupt(
    batch: HostBatch, keys: np.ndarray, progress: float, *, vocab: Vocab, slots: int, masking: Masking
) -> HostBatch:
    tokens, positions, targets, weights = mask_tokens(
        batch["tokens"], batch["sequence"] > 0, keys, vocab=vocab, masking=masking, slots=slots, progress=progress
    )
    masked = {"masked_positions": positions, "masked_targets": targets, "masked_weights": weights}
    return {**batch, "tokens": tokens, **masked}


class Mlm(Objective):
    """The encoder with the masked-language-model head."""

    loss_terms: ClassVar[tuple[str, ...]] = ("mlm_loss",)

    def setup(self) -> None:
        m = self.model
        init, dtype = TruncatedNormal(m.init_std), jnp.dtype(m.dtype)
        self.mlm = MlmHead(
            width=m.width,
            vocab_size=m.vocab_size,
            padded_vocab_size=self.encoder.compute.padded_vocab_size(m.vocab_size),
            activation=ACTIVATIONS[m.activation],
            norm_epsilon=m.norm_epsilon,
            initializer=init,
            dtype=dtype,
        )

    def loss_weights(self, batch: Batch) -> dict[str, jax.Array]:
        return {"mlm_loss": jnp.sum(batch["masked_weights"])}

    def __call__(self, batch: Batch, *, train: bool) -> Metrics:
        return self.metrics(self.encoder(batch, train=train, read=self.read(batch)).hidden, batch)

    def read(self, batch: Batch) -> jax.Array:
        """i32[B,K]: the places that the heads read of the last layer."""
        return batch["masked_positions"]

    def metrics(self, hidden: jax.Array, batch: Batch) -> Metrics:
        """Loss and accuracy of the heads over the hidden states f[B,K,D] at `read`."""
        return classification("mlm", self.mlm_logits(hidden), batch["masked_targets"], batch["masked_weights"])

    def mlm_logits(self, hidden: jax.Array) -> jax.Array:
        """f32[B,M,V] of the hidden states f[B,M,D] at masked positions."""
        return self.mlm(hidden, self.encoder.attend)

    def encode(self, batch: Batch) -> tuple[Encoded, jax.Array | None]:
        return self.encoder(batch, train=False), None

    def fill(self, batch: Batch) -> jax.Array:
        """f32[B,M,V] at batch["masked_positions"], without dropout."""
        logits = self.mlm_logits(self.encoder(batch, train=False, read=batch["masked_positions"]).hidden)
        return logits[..., : self.model.vocab_size]


class MlmNsp(Mlm):
    """With a second head, over the pooled first token of each packed sequence."""

    loss_terms = ("mlm_loss", "nsp_loss")

    def setup(self) -> None:
        super().setup()
        m = self.model
        init, dtype = TruncatedNormal(m.init_std), jnp.dtype(m.dtype)
        self.pooler = Dense((m.width,), (m.width,), init, dtype)
        self.nsp = Dense((m.width,), (2,), init, dtype)

    def loss_weights(self, batch: Batch) -> dict[str, jax.Array]:
        return {**super().loss_weights(batch), self.loss_terms[1]: jnp.sum(batch["next_weights"])}

    def read(self, batch: Batch) -> jax.Array:
        return jnp.concatenate([batch["masked_positions"], batch["first_tokens"]], axis=1)

    def metrics(self, hidden: jax.Array, batch: Batch) -> Metrics:
        masked, first = jnp.split(hidden, [batch["masked_positions"].shape[1]], axis=1)
        name, logits = self.loss_terms[1].removesuffix("_loss"), self.nsp_logits(first)
        pairs = classification(name, logits, batch["next_labels"], batch["next_weights"])
        return {**super().metrics(masked, batch), **pairs}

    def nsp_logits(self, first: jax.Array) -> jax.Array:
        """f32[B,S,2] of the hidden states f[B,S,D] of the first token of each packed sequence."""
        return self.nsp(pool(self.pooler, first, self.encoder.compute.mesh)).astype(jnp.float32)

    def encode(self, batch: Batch) -> tuple[Encoded, jax.Array | None]:
        encoded = self.encoder(batch, train=False)
        return encoded, pooled(self.pooler, encoded.hidden, batch)


class MlmSop(MlmNsp):
    """The same head (also called nsp, as in google-research/albert), trained to tell swapped segments."""

    loss_terms = ("mlm_loss", "sop_loss")


MODULES: dict[str, type[Mlm]] = {"nsp": MlmNsp, "sop": MlmSop}
PLANNERS: dict[str, Planner] = {
    "nsp": next_sentence,
    "sop": sentence_order,
    "full-sentences": full_sentences,
    "doc-sentences": doc_sentences,
    "segments": segments,
}
