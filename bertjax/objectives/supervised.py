"""Fine-tuning (BERT section 4): one dense layer over a sequence, its tokens, or the sequences of a choice."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from bertjax.contracts import Batch, Encoded, Head, Metrics, ModelConfig, Objective, ObjectiveConfig
from bertjax.errors import ConfigError
from bertjax.initial import TruncatedNormal
from bertjax.nn.dense import Dense
from bertjax.nn.dropout import Dropout
from bertjax.nn.heads import LayerChoice, chosen_layers, pool, pooled
from bertjax.nn.losses import classification, regression
from bertjax.nn.places import gather_tokens

NONE = jnp.finfo(jnp.float32).min  # the logit of what cannot be chosen


@dataclass(frozen=True)
class Config(ObjectiveConfig):
    """The head over the encoder."""

    classes: int = 2
    """labels of classify and tag; 0 is regression"""
    dropout: float = 0.1
    """on what the head sees"""
    head: Head = "classify"
    features: LayerChoice = "last"
    """layers that the head sees"""
    frozen: bool = False
    """train what stands on the encoder alone"""

    def __post_init__(self) -> None:
        if self.classes < 0 or self.classes == 1:
            raise ConfigError(f"objective.classes={self.classes}: at least 2 labels, or 0 for regression")

    def build(self, model: ModelConfig) -> "Supervised":
        """The module over an encoder of `model`."""
        if self.features != "last" and model.layers < 4:
            raise ConfigError(f"features={self.features} but the encoder has {model.layers} layers; take last")
        return HEADS[self.head](encoder=model.build(), model=model, config=self)

    def read_fraction(self, length: int) -> float:
        """The first token where the head stands on it alone."""
        return 1 / length if HEADS[self.head].pools and self.features == "last" else 1.0


class Supervised(Objective):
    """The encoder, the pooler where the head stands on it, and one dense layer."""

    loss_terms = ("task_loss",)
    pools: ClassVar[bool] = True

    config: Config

    def setup(self) -> None:
        if self.pools:
            self.pooler = self.dense(self.model.width, self.seen)
        self.drop = Dropout(self.config.dropout)

    @property
    def seen(self) -> int:
        """Width of what the head sees of a token."""
        return self.model.width * (4 if self.config.features == "concat-last-four" else 1)

    def dense(self, outputs: int, inputs: int = 0) -> Dense:
        """A layer from `inputs` (0: the model's width) to `outputs`; its name is the attribute it is kept in."""
        m = self.model
        return Dense((inputs or m.width,), (outputs,), TruncatedNormal(m.init_std), jnp.dtype(m.dtype))

    def loss_weights(self, batch: Batch) -> dict[str, jax.Array]:
        return {"task_loss": jnp.sum(batch["weights"])}

    def encode(self, batch: Batch) -> tuple[Encoded, jax.Array | None]:
        encoded = self.encoder(batch, train=False)
        if not self.pools:
            return encoded, None
        seen = chosen_layers(encoded.layers, self.config.features)
        return encoded, pooled(self.pooler, seen, batch)

    def hidden(self, batch: Batch, *, train: bool, read: jax.Array | None = None) -> jax.Array:
        """f[B,L,W], or f[B,K,W] at the places `read`: what the head sees.

        Of a frozen encoder it is without dropout, so that it is always the same.
        """
        frozen, which = self.config.frozen, self.config.features
        whole = which != "last"  # of the layers before it all tokens are computed anyway
        encoded = self.encoder(batch, train=train and not frozen, read=None if whole else read)
        seen = chosen_layers(encoded.layers, which)
        if whole and read is not None:
            seen = gather_tokens(seen, read)
        return jax.lax.stop_gradient(seen) if frozen else seen

    def pooled(self, batch: Batch, *, train: bool) -> jax.Array:
        """f[B,D] of the first tokens."""
        first = self.hidden(batch, train=train, read=batch["first_tokens"])
        return pool(self.pooler, first, self.encoder.compute.mesh)[:, 0]

    def logits(self, batch: Batch, *, train: bool = False) -> jax.Array:
        """What the head says of each row, in float32: the shapes are those of contracts.Output."""
        raise NotImplementedError


class Classify(Supervised):
    """A class or a number from the pooled first token: f32[B,C], or f32[B,1]."""

    def setup(self) -> None:
        super().setup()
        self.classify = self.dense(max(1, self.config.classes))

    def __call__(self, batch: Batch, *, train: bool) -> Metrics:
        logits = self.logits(batch, train=train)
        if self.config.classes:
            return classification("task", logits, batch["labels"], batch["weights"])
        return regression("task", logits[:, 0], batch["labels"], batch["weights"])

    def logits(self, batch: Batch, *, train: bool = False) -> jax.Array:
        pooled = self.pooled(batch, train=train)
        return self.classify(self.drop(pooled, train=train)).astype(jnp.float32)


class Span(Supervised):
    """How likely each token is the first and the last of an answer: f32[B,L,2]."""

    pools = False

    def setup(self) -> None:
        super().setup()
        self.span = self.dense(2, self.seen)

    def __call__(self, batch: Batch, *, train: bool) -> Metrics:
        logits = jnp.where(batch["sequence"][:, :, None] > 0, self.logits(batch, train=train), NONE)
        ends = jnp.swapaxes(logits, 1, 2)
        weights = jnp.repeat(batch["weights"][:, None] / 2, 2, axis=1)
        return classification("task", ends, batch["spans"], weights)

    def logits(self, batch: Batch, *, train: bool = False) -> jax.Array:
        hidden = self.hidden(batch, train=train)
        return self.span(self.drop(hidden, train=train)).astype(jnp.float32)


class Tag(Supervised):
    """The class of every token: f32[B,L,C]."""

    pools = False

    def setup(self) -> None:
        super().setup()
        self.tag = self.dense(self.config.classes, self.seen)

    def loss_weights(self, batch: Batch) -> dict[str, jax.Array]:
        return {"task_loss": jnp.sum(self.labelled(batch))}

    def labelled(self, batch: Batch) -> jax.Array:
        """f32[B,L]: the weight of each token that has a label, 0 for the others."""
        return jnp.where(batch["tags"] >= 0, batch["weights"][:, None], 0.0)

    def __call__(self, batch: Batch, *, train: bool) -> Metrics:
        logits = self.logits(batch, train=train)
        return classification("task", logits, jnp.maximum(batch["tags"], 0), self.labelled(batch))

    def logits(self, batch: Batch, *, train: bool = False) -> jax.Array:
        hidden = self.hidden(batch, train=train)
        return self.tag(self.drop(hidden, train=train)).astype(jnp.float32)


class Choose(Supervised):
    """Which of the sequences i32[B,C,L] of a row is right: f32[B,C]."""

    def setup(self) -> None:
        super().setup()
        self.choose = self.dense(1)

    def __call__(self, batch: Batch, *, train: bool) -> Metrics:
        return classification("task", self.logits(batch, train=train), batch["labels"], batch["weights"])

    def logits(self, batch: Batch, *, train: bool = False) -> jax.Array:
        names = ("tokens", "types", "sequence", "positions", "first_tokens")
        flat = {name: batch[name].reshape(-1, batch[name].shape[-1]) for name in names}
        pooled = self.pooled(flat, train=train)
        scores = self.choose(self.drop(pooled, train=train)).astype(jnp.float32)[:, 0]
        there = flat["sequence"].any(axis=1)
        return jnp.where(there, scores, NONE).reshape(batch["tokens"].shape[0], -1)


HEADS: dict[Head, type[Supervised]] = {"classify": Classify, "span": Span, "tag": Tag, "choose": Choose}
