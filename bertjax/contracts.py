"""THE page: the types every other module speaks in.

Letters in shapes: B batch, L length, D width, N heads, H head width, V vocabulary, C classes, M masked slots,
K places of a row that are read, S sequences packed in a row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, NamedTuple, Protocol, TypeVar

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

if TYPE_CHECKING:  # what runs on the host: data/ knows no jax, and so not this page
    from bertjax.data.masking import Vocab
    from bertjax.data.rows import Corruption, Example, Planner

# tokens i32[B,L]; types i32[B,L] (token_type_ids); sequence i32[B,L]: 0 padding, 1..S which packed sequence;
# positions i32[B,L], restarting in every sequence; first_tokens i32[B,S]: where each sequence starts.
# MLM adds masked_positions i32[B,M], masked_targets i32[B,M], masked_weights f32[B,M];
# NSP and SOP add next_labels i32[B,S] (0 is next, 1 random or swapped), next_weights f32[B,S];
# a task adds weights f32[B] and labels i32[B] or f32[B], or spans i32[B,2], or tags i32[B,L] (-1: no label);
# in multiple choice tokens and their like are i32[B,C,L], a choice whose sequence is all 0 being none.
Batch = Mapping[str, jax.Array]
# A plain nested dict of arrays, one layout on disk and in memory (but `Compute.padded_vocab_size`).
Params = Mapping[str, Any]
Metrics = dict[str, tuple[jax.Array, jax.Array]]  # name -> (total, weight); divided only at the edge


class Encoded(NamedTuple):
    """What an encoder returns."""

    hidden: jax.Array  # f[B,L,D], the last layer; f[B,K,D] where K places are all that is read of it
    layers: tuple[jax.Array, ...]  # the embeddings f[B,L,D], each layer f[B,L,D], the last as `hidden`


LANES = 128  # matrix units work in tiles of 128 columns

Remat = Literal["none", "blocks", "dots"]
AttentionKind = Literal["auto", "einsum", "cudnn", "splash"]
Window = tuple[int, int] | None  # how many tokens before and after it a token sees; None: all


@dataclass(frozen=True)
class Compute:
    """How an encoder is run; what it computes is the same up to rounding, so none of it belongs to a model."""

    remat: Remat = "none"
    """what the backward pass computes again to save memory: nothing; all but the layers' inputs (blocks); attention's
    probabilities and the activation of the feed-forward block, which is most of what is cheap (dots)"""
    attention: AttentionKind = "auto"
    """see nn/attend.py"""
    mesh: Mesh | None = None
    """of the program; without it kernels that have to be told where arrays lie (splash) are not used"""

    def parts(self, size: int) -> int:
        """Into how many `tensor` cuts heads, hidden units or vocabulary; one where it does not divide their number."""
        ways = self._size("tensor")
        return 1 if size % ways else ways

    def padded_vocab_size(self, vocab_size: int) -> int:
        """Rows of the token table: of one that `tensor` or `fsdp` cut, as many more as make whole tiles in equal parts.

        No checkpoint has the others (train/padding.py). They stay zeros: nothing looks them up, and their logits are
        far below all others.
        """
        ways = self._size("tensor") * self._size("fsdp")
        whole = math.lcm(LANES, ways)
        return vocab_size if ways == 1 else -(-vocab_size // whole) * whole

    def _size(self, axis: str) -> int:
        return self.mesh.shape[axis] if self.mesh else 1


class Encoder(Protocol):
    """A Flax module that turns a batch into hidden states and owns the token table."""

    compute: Compute

    def __call__(self, batch: Batch, *, train: bool, read: jax.Array | None = None) -> Encoded:
        """Hidden states of every token, or of the last layer those at the places `read` i32[B,K] alone, in which case
        no others are computed there; `train` turns dropout on (needs a "dropout" key).
        """
        ...

    def attend(self, hidden: jax.Array) -> jax.Array:
        """Logits f[..., V] of hidden states f[..., D] through the tied token table."""
        ...


class ModelConfig:
    """Base of a family's frozen dataclass that describes one encoder and builds it."""

    vocab_size: int
    width: int
    layers: int
    max_length: int
    type_count: int
    activation: str
    norm_epsilon: float
    init_std: float
    dtype: str

    def build(self) -> Encoder:
        """The encoder module, always to be called `encoder` by its owner."""
        raise NotImplementedError

    def flops_per_token(self, length: int, masked_fraction: float, read_fraction: float) -> float:
        """Floating point operations of one training step (forward and backward) per token of the batch.

        The fractions are those of ObjectiveConfig.
        """
        raise NotImplementedError

    def forward_flops(self, length: int) -> float:
        """Of one row through the encoder, without gradients."""
        return self.flops_per_token(length, 0.0, 1.0) / 3 * length

    def activation_bytes(self, length: int, masked_fraction: float, read_fraction: float, compute: Compute) -> float:
        """About the bytes that a device keeps for the backward pass for each token of its rows, to choose a mesh by."""
        raise NotImplementedError


class Objective(nn.Module):
    """A module that owns an encoder and turns a batch into metrics.

    Its loss is the sum over `loss_terms` of total / weight. The weights depend on the batch alone, so they are
    known for a whole batch before it is cut into micro-batches: accumulated gradients are exact.
    """

    loss_terms: ClassVar[tuple[str, ...]] = ()  # the metrics whose averages sum to the loss

    encoder: Any
    model: ModelConfig

    def using(self, compute: Compute) -> Objective:
        """The same objective with its encoder run in another way."""
        return self.clone(encoder=self.encoder.clone(compute=compute))

    def loss_weights(self, batch: Batch) -> dict[str, jax.Array]:
        """Name of each loss term -> its weight summed over the batch."""
        raise NotImplementedError

    def __call__(self, batch: Batch, *, train: bool) -> Metrics:
        """(total, weight) of every loss term and of every figure worth logging."""
        raise NotImplementedError

    def encode(self, batch: Batch) -> tuple[Encoded, jax.Array | None]:
        """Hidden states, and the pooled first tokens f[B,D] where there is a pooler, without dropout."""
        raise NotImplementedError


class ObjectiveConfig:
    """Base of an objective's frozen dataclass: its module, and what it does to examples on the host."""

    def build(self, model: ModelConfig) -> Objective:
        """The module over an encoder of `model`."""
        raise NotImplementedError

    def masked_fraction(self, length: int) -> float:
        """Share of the tokens of a row that are projected onto the vocabulary."""
        return 0.0

    def read_fraction(self, length: int) -> float:
        """Share of the tokens of a row whose states in the last layer are read: those of the others are not computed.

        Of a packed row it is that of one with a single sequence.
        """
        return 1.0

    def flops_per_token(self, model: ModelConfig, length: int) -> float:
        """Floating point operations of one training step (forward and backward) per token of the batch."""
        return model.flops_per_token(length, self.masked_fraction(length), self.read_fraction(length))

    def activation_bytes(self, model: ModelConfig, length: int, compute: Compute) -> float:
        """About the bytes that a device keeps for the backward pass for each token of its rows."""
        return model.activation_bytes(length, self.masked_fraction(length), self.read_fraction(length), compute)

    def planner(self) -> Planner:
        """Makes the sequences of an epoch out of a shard."""
        raise NotImplementedError

    def corruption(self, vocab: Vocab, length: int) -> Corruption:
        """A picklable host function (batch, keys, progress) -> batch with static shapes for rows of `length`.

        What it makes of a row depends on the row, its key and the progress alone, not on the rest of the batch.
        """
        raise NotImplementedError


class Row(NamedTuple):
    """One or two texts as a file has them; `label` is a class index, a score, or None where it is not known."""

    text_a: str
    text_b: str | None
    label: int | float | None


class TokenizerLike(Protocol):
    """What a task needs of a tokenizer."""

    unk_id: int

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without special tokens."""
        ...

    def encode_with_offsets(self, texts: Sequence[str]) -> list[tuple[list[int], np.ndarray]]:
        """The ids of `encode_batch`, and where each begins and ends in its text: i32[n,2], in code points."""
        ...

    def pair_ids(self, a: Sequence[int], b: Sequence[int] | None, max_length: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens i32[n] and types i32[n] of [CLS] a [SEP] b [SEP]; n <= max_length."""
        ...


Head = Literal["classify", "span", "tag", "choose"]  # the heads of objectives/supervised.py
Output = np.ndarray  # of an example: classify f[C] (regression f[1]), span f[L,2], tag f[L,C], choose f[choices]
Prediction = dict[str, Any]  # of a row, as JSON: "prediction", and what else there is to say of it
R = TypeVar("R")  # a row: a NamedTuple of JSON values, with the right answer where it is known


class Task(Generic[R]):
    """Base of a task family's frozen dataclass: a data set with its reader, its head and its official metrics."""

    name: str
    source: str  # where the data come from and their licence, in one line
    labels: tuple[str, ...]  # class names in the order of the logits; empty for regression, span and choose
    metrics: tuple[str, ...]  # the first chooses the best checkpoint
    writes: tuple[str, ...] = ()  # what `files` makes
    also: tuple[str, ...] = ()  # splits that are scored beside dev
    head: ClassVar[Head]

    def read(self, data_dir: str, split: str) -> list[R]:
        """Rows of `split` from the published files; malformed ones raise DataError with file and line."""
        raise NotImplementedError

    def read_inputs(self, path: str) -> list[R]:
        """Rows without labels from a file of the user's, to be predicted."""
        raise NotImplementedError

    def fault(self, row: R) -> str:
        """Why a row cannot be trained on, though it is scored as the others; "" for a good one."""
        return ""

    def encode(self, rows: Sequence[R], tokenizer: TokenizerLike, length: int) -> list[Example]:
        """Examples for the head, one or more a row: tokens i32[n] and types i32[n], n <= length, or `choices`, a list
        of such; where it is known, what is right: `label`, `span` i32[2] or `tags` i32[n] (-1: no label).

        What `decode` has to know of an example stays on the host as its `place`.
        """
        raise NotImplementedError

    def decode(
        self, outputs: Sequence[Output], examples: Sequence[Example], rows: Sequence[R], tuned: Mapping[str, float]
    ) -> list[Prediction]:
        """The prediction of every row, from the logits of every example."""
        raise NotImplementedError

    def tune(self, predictions: Sequence[Prediction], rows: Sequence[R]) -> dict[str, float]:
        """What is chosen on the dev set, once a model is trained, for `decode` to use on any other."""
        return {}

    def score(self, predictions: Sequence[Prediction], rows: Sequence[R]) -> dict[str, float]:
        """The official metrics."""
        raise NotImplementedError

    def table(self, predictions: Sequence[Prediction]) -> list[list[Any]]:
        """Predictions as the lines of a TSV file, the header first."""
        raise NotImplementedError

    def files(self, predictions: Sequence[Prediction], rows: Sequence[R]) -> dict[str, Any]:
        """What official scorers read, each of `writes` as a JSON value, to be kept beside the scores."""
        return {}

    def submission(self, split: str, predictions: Sequence[Prediction]) -> dict[str, list[list[Any]]]:
        """What a leaderboard takes of a split: the lines of TSV files by their names, the header first."""
        return {}
