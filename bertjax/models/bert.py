"""BERT (Devlin et al. 2018): learned positions, post-LN layers, a table tied to the output.

The presets are the published sizes (README of google-research/bert; Turc et al. 2019 for the small ones).
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from bertjax.contracts import Batch, Compute, Encoded, ModelConfig
from bertjax.errors import ConfigError, closest
from bertjax.initial import TruncatedNormal
from bertjax.nn import attend
from bertjax.nn.blocks import PostNormLayer, run_layer
from bertjax.nn.embed import Embeddings
from bertjax.nn.mlp import ACTIVATIONS

VOCAB_SIZE = 30_522  # of the published uncased models; a run takes the size of its prepared data


@dataclass(frozen=True)
class Config(ModelConfig):
    """Sizes and numerics of one BERT encoder; the defaults are BERT-base."""

    vocab_size: int = VOCAB_SIZE
    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_width: int = 3_072
    max_length: int = 512
    type_count: int = 2
    activation: str = "gelu"
    """gelu (exact, erf), gelu_tanh (as in google-research/bert) or relu"""
    dropout: float = 0.1
    attention_dropout: float = 0.1
    norm_epsilon: float = 1e-12
    init_std: float = 0.02
    dtype: Literal["float32", "bfloat16"] = "float32"
    """of activations; weights, optimizer, LayerNorm statistics, softmax and loss stay float32"""

    def __post_init__(self) -> None:
        for name in ("vocab_size", "width", "layers", "heads", "mlp_width", "max_length", "type_count"):
            if getattr(self, name) < 1:
                raise ConfigError(f"model.{name}={getattr(self, name)} must be at least 1")
        if self.width % self.heads:
            low = self.width // self.heads * self.heads
            near = ", ".join(str(w) for w in (low, low + self.heads) if w)
            raise ConfigError(
                f"model.width={self.width} is not a multiple of model.heads={self.heads}; nearest widths: {near}"
            )
        for name in ("dropout", "attention_dropout"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ConfigError(f"model.{name}={getattr(self, name)} is not a probability in [0, 1)")
        if self.activation not in ACTIVATIONS:
            raise ConfigError(f"model.activation={self.activation!r}{closest(self.activation, ACTIVATIONS)}")

    def build(self) -> "Encoder":
        """The encoder module."""
        return Encoder(self)

    def flops_per_token(self, length: int, masked_fraction: float, read_fraction: float) -> float:
        """Matrix products of forward and backward (3 x forward) per token; embeddings and elementwise work left out."""
        keys_and_values = 4 * self.width**2
        layer = keys_and_values + 4 * self.width**2 + 4 * self.width * self.mlp_width + 4 * length * self.width
        last = keys_and_values + read_fraction * (layer - keys_and_values)
        head = masked_fraction * 2 * (self.width**2 + self.width * self.vocab_size)
        return 3.0 * ((self.layers - 1) * layer + last + head + 2 * self.width**2 / length)

    def activation_bytes(self, length: int, masked_fraction: float, read_fraction: float, compute: Compute) -> float:
        """What XLA keeps for TPUs, within a tenth or two for tiny to base (`bertjax plan`)."""
        way = attend.choose(
            compute,
            length=length,
            head_width=self.width // self.heads,
            dtype=jnp.dtype(self.dtype),
            dropped=self.attention_dropout > 0,
        )
        scores = self.heads * length if way == "einsum" else 0  # the fused kernels keep none
        inner = self.mlp_width / compute.parts(self.mlp_width)
        whole, heads = 2 * self.width, compute.parts(self.heads)  # hidden states are whole wherever a part is computed
        kept = {
            "none": whole + (4 * self.width + scores) / heads + 2 * inner,
            "dots": whole + 4 * self.width / heads + inner,
            "blocks": self.width,
        }
        again = kept["none"] if compute.remat != "none" else 0  # of the one layer whose turn it is
        layers = self.layers - 1 + read_fraction
        values = min(layers * kept[compute.remat] + again, layers * kept["none"])
        rows = compute.padded_vocab_size(self.vocab_size)
        return jnp.dtype(self.dtype).itemsize * values + 7 * masked_fraction * rows / compute.parts(rows)


PRESETS: dict[str, Config] = {
    "tiny": Config(layers=2, width=128, heads=2, mlp_width=512),
    "mini": Config(layers=4, width=256, heads=4, mlp_width=1_024),
    "small": Config(layers=4, width=512, heads=8, mlp_width=2_048),
    "medium": Config(layers=8, width=512, heads=8, mlp_width=2_048),
    "base": Config(),
    "large": Config(layers=24, width=1_024, heads=16, mlp_width=4_096),
}

# How Hugging Face calls the same things (transformers, modeling_bert.py): the fields of config.json, the modules of
# the encoder ("{i}" is a layer's number), and for each class the modules of its heads, the first class that fits first.
HF_CONFIG = {
    "vocab_size": "vocab_size",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "mlp_width": "intermediate_size",
    "max_length": "max_position_embeddings",
    "type_count": "type_vocab_size",
    "activation": "hidden_act",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "norm_epsilon": "layer_norm_eps",
    "init_std": "initializer_range",
}
HF_ONLY = {  # what changes the arithmetic in a way there is not here: the only values taken
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "pruned_heads": {},
}
HF_POSITIONS_AFTER_PADDING = False  # whether the rows of the position table up to that of the padding are not used
HF_SEPARATORS = 1  # marks between the two texts of a pair
HF_PREFIX = "bert."  # of the encoder and pooler, in every class but BertModel itself
HF_NAMES = {
    "encoder/embed/tokens": "bert.embeddings.word_embeddings",
    "encoder/embed/positions": "bert.embeddings.position_embeddings",
    "encoder/embed/types": "bert.embeddings.token_type_embeddings",
    "encoder/embed/norm": "bert.embeddings.LayerNorm",
    "encoder/layer_{i}/attn/query": "bert.encoder.layer.{i}.attention.self.query",
    "encoder/layer_{i}/attn/key": "bert.encoder.layer.{i}.attention.self.key",
    "encoder/layer_{i}/attn/value": "bert.encoder.layer.{i}.attention.self.value",
    "encoder/layer_{i}/attn/out": "bert.encoder.layer.{i}.attention.output.dense",
    "encoder/layer_{i}/attn_norm": "bert.encoder.layer.{i}.attention.output.LayerNorm",
    "encoder/layer_{i}/mlp/in": "bert.encoder.layer.{i}.intermediate.dense",
    "encoder/layer_{i}/mlp/out": "bert.encoder.layer.{i}.output.dense",
    "encoder/layer_{i}/mlp_norm": "bert.encoder.layer.{i}.output.LayerNorm",
}
_POOLER = {"pooler": "bert.pooler.dense"}
_MLM = {
    "mlm/transform": "cls.predictions.transform.dense",
    "mlm/norm": "cls.predictions.transform.LayerNorm",
    "mlm": "cls.predictions",
}
_NSP = {"nsp": "cls.seq_relationship"}
HF_HEADS: dict[str, dict[str, str]] = {
    "BertForPreTraining": {**_POOLER, **_MLM, **_NSP},
    "BertForMaskedLM": _MLM,
    "BertForSequenceClassification": {**_POOLER, "classify": "classifier"},
    "BertForTokenClassification": {"tag": "classifier"},
    "BertForQuestionAnswering": {"span": "qa_outputs"},
    "BertForMultipleChoice": {**_POOLER, "choose": "classifier"},
    "BertModel": _POOLER,
}
HF_TIED = {  # theirs that repeat another of theirs
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}


class Encoder(nn.Module):
    """Embeddings and a stack of post-LN layers."""

    config: Config
    compute: Compute = Compute()

    def setup(self) -> None:
        c = self.config
        init, dtype = TruncatedNormal(c.init_std), jnp.dtype(c.dtype)
        self.embed = Embeddings(
            vocab_size=self.compute.padded_vocab_size(c.vocab_size),
            type_count=c.type_count,
            max_length=c.max_length,
            width=c.width,
            dropout=c.dropout,
            norm_epsilon=c.norm_epsilon,
            initializer=init,
            dtype=dtype,
            compute=self.compute,
        )
        self.layer = [
            PostNormLayer(
                width=c.width,
                heads=c.heads,
                mlp_width=c.mlp_width,
                activation=ACTIVATIONS[c.activation],
                dropout=c.dropout,
                attention_dropout=c.attention_dropout,
                norm_epsilon=c.norm_epsilon,
                initializer=init,
                dtype=dtype,
                compute=self.compute,
            )
            for _ in range(c.layers)
        ]

    def __call__(self, batch: Batch, *, train: bool, read: jax.Array | None = None) -> Encoded:
        run = partial(run_layer, sequence=batch["sequence"], train=train, remat=self.compute.remat)
        layers = [self.embed(batch, train=train)]
        *before, last = self.layer
        for layer in before:
            layers.append(run(layer, layers[-1]))
        layers.append(run(last, layers[-1], read=read))
        return Encoded(layers[-1], tuple(layers))

    def attend(self, hidden: jax.Array) -> jax.Array:
        """f[..., D] -> f32[..., V] through the token table."""
        return self.embed.tokens.attend(hidden)
