"""The Python face: `bertjax.load(path)` gives a model to call, `bertjax.load_tokenizer(path)` its tokenizer."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bertjax.compiled import inference
from bertjax.contracts import Batch, Encoded, Objective, Params
from bertjax.data.examples import ExampleSource
from bertjax.data.sources import Position
from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import ConfigError, DataError
from bertjax.folders import check_file
from bertjax.nn.heads import POOLINGS, LayerChoice, Pooling, chosen_layers
from bertjax.objectives import mlm
from bertjax.paths import as_path, fetched, whole
from bertjax.saved import SavedRun, open_run
from bertjax.tasks._lines import lines
from bertjax.train.log import console
from bertjax.train.mesh import MeshConfig, make_mesh
from bertjax.use import Embed


class Output(NamedTuple):
    """What a model returns, under the names that users of other libraries know."""

    last_hidden_state: np.ndarray  # f32[B,L,D]
    pooler_output: np.ndarray | None  # f32[B,D]; None where the encoder has no pooler
    hidden_states: tuple[np.ndarray, ...]  # L+1 of f32[B,L,D], the embeddings first


class Filled(NamedTuple):
    """One candidate for a mask: its row of the vocabulary, and the text with it."""

    token: str
    probability: float
    text: str


@dataclass(frozen=True)
class Model:
    """A trained encoder with its tokenizer; made by `load`."""

    saved: SavedRun
    objective: Objective
    params: Params

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer the model was trained with."""
        return self.saved.tokenizer

    def tokenize(
        self, text: str | Sequence[str], pair: str | Sequence[str] | None = None, *, max_length: int = 0
    ) -> dict[str, np.ndarray]:
        """input_ids, token_type_ids, attention_mask as i32[B,L], cut to `max_length` (0: what the model takes)."""
        texts = [text] if isinstance(text, str) else text
        pairs = [pair] if isinstance(pair, str) else pair
        return self.tokenizer(texts, pairs, max_length or self.saved.model.max_length)

    def __call__(
        self,
        input_ids: np.ndarray,
        token_type_ids: np.ndarray | None = None,
        attention_mask: np.ndarray | None = None,
    ) -> Output:
        """Hidden states of i32[B,L] ids, as `tokenize` gives them: `model(**model.tokenize("a text"))`."""
        encoded, pooled = self._encode(self.params, self._batch(input_ids, token_type_ids, attention_mask))
        return Output(*jax.device_get((encoded.hidden, pooled, encoded.layers)))

    def embed(
        self,
        texts: Sequence[str],
        *,
        pooling: Pooling = "mean",
        features: LayerChoice = "last",
        batch_size: int = 64,
    ) -> np.ndarray:
        """Vectors f32[B,D] of texts, in their order (f32[B,4D] of "concat-last-four"); made from real tokens alone.

        Texts of like length share a batch; the shapes are few, powers of two up to what the model takes.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size={batch_size} must be at least 1")
        if not len(texts):
            return self.embed([""], pooling=pooling, features=features)[:0]  # of the right width
        most, layers = self.saved.model.max_length, self.saved.model.layers
        if features != "last" and layers < 4:
            raise ConfigError(f"features={features} but the encoder has {layers} layers; take last")
        pairs = [self.tokenizer.pair_ids(ids, None, most) for ids in self.tokenizer.encode_batch(texts)]
        flops = sum(self.saved.model.forward_flops(len(tokens)) for tokens, _ in pairs)
        pool = inference(self._pool, flops, static_argnums=(2, 3))
        source = ExampleSource(
            [{"tokens": tokens, "types": types} for tokens, types in pairs],
            batch_size=min(batch_size, len(texts)),
            length=most,
            pad=self.tokenizer.pad_id,
            shuffle=False,
            drop_last=False,
            buckets=[length for power in range(4, 16) if (length := 2**power) < most],
        )
        batches = (source.batch(Position(0, 0, number)) for number in range(source.batches(0, 0)))
        made = np.concatenate([pool(self.params, batch, pooling, features) for batch in batches])[: len(texts)]
        return made[np.argsort(source.order(0))]

    def fill_mask(self, text: str, *, k: int = 5) -> list[Filled]:
        """The `k` likeliest tokens for the one mask (`tokenizer.mask_token`) in a text, the likeliest first."""
        if not isinstance(self.objective, mlm.Mlm):
            raise ConfigError(f"{self.saved.path} has no masked-language-model head: load a pretraining run")
        tokenizer, mask = self.tokenizer, self.tokenizer.mask_token
        if text.count(mask) != 1:
            raise DataError(f"{text!r} has {text.count(mask)} {mask} tokens; fill_mask takes exactly one")
        ids, types = tokenizer.pair_ids(tokenizer.encode_with_mask(text), None, self.saved.model.max_length)
        place = np.flatnonzero(ids == tokenizer.mask_id)
        if not len(place):
            raise DataError(f"the {mask} lies beyond the {self.saved.model.max_length} tokens the model takes")
        batch = self._batch(ids[None], types[None], None) | {"masked_positions": place[None].astype(np.int32)}
        chances = np.asarray(jax.nn.softmax(self._fill(self.params, batch)[0, 0]))
        best = np.argsort(-chances, kind="stable")[:k]
        return [Filled(tokenizer.vocabulary[row], float(chances[row]), tokenizer.fill(text, row)) for row in best]

    def _batch(self, ids: np.ndarray, types: np.ndarray | None, mask: np.ndarray | None) -> dict[str, np.ndarray]:
        tokens = np.asarray(ids, np.int32)
        limit = self.saved.model.max_length
        if tokens.ndim != 2 or not tokens.size or tokens.shape[1] > limit:
            raise DataError(f"input_ids of shape {tokens.shape}: needs [batch, length] with length up to {limit}")
        if tokens.min() < 0 or tokens.max() >= self.saved.model.vocab_size:
            raise DataError(
                f"input_ids hold {tokens.min()} to {tokens.max()}; the vocabulary has {self.saved.model.vocab_size} ids"
            )
        segments = np.zeros_like(tokens) if types is None else np.asarray(types, np.int32)
        if not 0 <= segments.min() <= segments.max() < max(2, self.saved.model.type_count):
            raise DataError(
                f"token_type_ids hold {segments.min()} to {segments.max()}; the model has "
                f"{self.saved.model.type_count} types"
            )
        real = np.ones_like(tokens) if mask is None else np.asarray(mask, np.int32)
        return {
            "tokens": tokens,
            "types": segments,
            "sequence": real,
            "positions": np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape),
            "first_tokens": np.zeros((len(tokens), 1), np.int32),
        }

    @cached_property
    def _encode(self) -> Any:  # noqa: ANN401 (a jitted function)
        def encode(params: Params, batch: Batch) -> tuple[Encoded, jax.Array | None]:
            encoded = self.objective.apply({"params": params}, batch, method="encode")
            return jax.tree.map(lambda x: x.astype(jnp.float32), encoded)

        return jax.jit(encode)

    @cached_property
    def _pool(self) -> Any:  # noqa: ANN401 (a function, the same one at each call: it is compiled once)
        def vectors(params: Params, batch: Batch, pooling: Pooling, which: LayerChoice) -> jax.Array:
            def seen(objective: Objective) -> jax.Array:
                if pooling == "cls" and which == "last":
                    return objective.encoder(batch, train=False, read=batch["first_tokens"]).hidden
                return chosen_layers(objective.encoder(batch, train=False).layers, which)

            hidden: Any = self.objective.apply({"params": params}, method=seen)
            real = batch["sequence"][:, : hidden.shape[1]] > 0
            return POOLINGS[pooling](hidden.astype(jnp.float32), real)

        return vectors

    @cached_property
    def _fill(self) -> Any:  # noqa: ANN401 (a jitted function)
        return jax.jit(lambda params, batch: self.objective.apply({"params": params}, batch, method="fill"))


def load(path: str | Path) -> Model:
    """The best checkpoint of a run, or the weights of a Hugging Face directory, on one device."""
    saved = open_run(path)
    mesh = make_mesh(MeshConfig(data=1))
    objective = saved.objective()
    return Model(saved, objective, saved.params(objective, mesh))


def load_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer of a run or of prepared data, or what `prepare --tokenizer` takes."""
    folder = as_path(path) / "tokenizer"
    with fetched(folder if folder.is_dir() else path) as here:
        return Tokenizer.load(here)


def embed(config: Embed) -> None:
    """A text file -> a .npy file with a vector for each of its lines."""
    out = Path(config.out)
    texts = [line.text for line in lines(Path(config.input))]
    check_file(out)
    vectors = load(config.run).embed(
        texts, pooling=config.pooling, features=config.features, batch_size=config.batch_size
    )
    with whole(out) as new, new.open("wb") as file:  # np.save would add .npy to the name of a new one
        np.save(file, vectors)
    console.print(f"embed: {len(vectors):,} vectors of {vectors.shape[1]} numbers in {out}")
