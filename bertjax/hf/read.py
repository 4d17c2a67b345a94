"""A Hugging Face directory -> model, tokenizer and parameters."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bertjax.contracts import ModelConfig, ObjectiveConfig
from bertjax.data import tokenizer_json
from bertjax.data.bpe import ByteBPE
from bertjax.data.tokenizer import Tokenizer
from bertjax.data.vocabulary_files import read_config, read_object
from bertjax.errors import DataError
from bertjax.hf import config_json, tf1, tokenizer_files
from bertjax.hf.tensors import Tensors
from bertjax.hf.tf1 import Tf1Tensors, prefix_of
from bertjax.hf.weights import Weights, task_heads
from bertjax.objectives import features, mlm, supervised


@dataclass(frozen=True)
class HfModel:
    """A directory, read but for its parameters."""

    path: Path
    about: config_json.Described
    tokenizer: Tokenizer
    weights: Weights

    @property
    def model(self) -> ModelConfig:
        """Sizes and numerics."""
        return self.about.model

    @cached_property
    def objective(self) -> ObjectiveConfig:
        """The heads the weights are for, of those known here."""
        return _objective(self.weights.parts, self.weights.classes, self.about.head_dropout)

    @cached_property
    def length(self) -> int:
        """Tokens that texts are cut to: of the tokenizer's config where it is said, at most what the model takes."""
        length = read_config(self.path).get("model_max_length")
        return min(length, self.model.max_length) if type(length) is int and length >= 8 else self.model.max_length


def is_directory(folder: Path) -> bool:
    """Whether a path is a model of Hugging Face's kind or a checkpoint of Google's, and not a run."""
    if prefix_of(folder):
        return True
    file = folder / config_json.FILE
    if (folder / "checkpoints").is_dir() or not file.is_file():
        return False
    return "command" not in read_object(file, config_json.FILE)


def read(path: Path) -> HfModel:
    """Config, tokenizer and the names and shapes of the weights, all checked."""
    prefix = prefix_of(path)
    folder = prefix.parent if prefix else path
    about = config_json.read(folder / (tf1.CONFIG if prefix else config_json.FILE))
    weights = Weights(folder, about, Tf1Tensors(prefix) if prefix else Tensors(folder))
    tokenizer = _tokenizer(folder, about)
    if about.labels and weights.classes not in (0, len(about.labels)):
        raise DataError(
            f"{folder}: the classifier has {weights.classes} outputs but id2label of config.json {len(about.labels)} "
            "names; correct it, or take it out"
        )
    return HfModel(folder, about, tokenizer, weights)


def _objective(parts: Iterable[str], classes: int, dropout: float) -> ObjectiveConfig:
    found = set(parts)
    if {"mlm", "nsp", "pooler"} <= found:
        return mlm.Config()
    if "mlm" in found:
        return mlm.Config("full-sentences")
    for head in task_heads(found, classes, dropout):
        if "pooler" in found or not supervised.HEADS[head.head].pools:
            return head
    return features.Config(pooler="pooler" in found)


def _tokenizer(folder: Path, about: config_json.Described) -> Tokenizer:
    """From tokenizer.json, which says all that decides the ids, or from the vocabulary's own file."""
    whole, vocab_size = folder / "tokenizer.json", about.model.vocab_size
    if whole.is_file():
        tokenizer = tokenizer_files.of_spiece(folder) or tokenizer_json.read(whole)
    else:
        tokenizer = Tokenizer.load(folder)
        _check_options(folder, tokenizer)
        if isinstance(tokenizer, ByteBPE):  # its files do not say how pairs are made
            tokenizer = Tokenizer.from_json({**tokenizer.to_json(), "separators": about.family.HF_SEPARATORS})
    if tokenizer.vocab_size > vocab_size:
        lines = folder / "vocab.txt"
        place = f"{lines}:{vocab_size + 1}" if lines.is_file() and not whole.is_file() else folder
        raise DataError(
            f"{place}: {tokenizer.vocabulary[vocab_size]!r} has id {vocab_size}, but vocab_size of config.json is "
            f"{vocab_size}; the vocabulary is of another model"
        )
    return tokenizer


def _check_options(folder: Path, tokenizer: Tokenizer) -> None:
    """What other files of the folder say of its vocabulary must be what is done here."""
    options = read_config(folder)
    lowercase = getattr(tokenizer, "lowercase", None)
    known = {"tokenize_chinese_chars": (True,), "strip_accents": (None, lowercase), "do_basic_tokenize": (True,)}
    for key, values in known.items():
        if key in options and options[key] not in values:
            raise DataError(f"{folder}/tokenizer_config.json: {key} is {options[key]!r}; known: {values}")
    file = folder / "added_tokens.json"
    added = read_object(file, file.name) if file.is_file() else {}
    for token, row in added.items():
        if tokenizer.rows.get(token) != row:
            raise DataError(f"{file}: {token!r} is not row {row!r} of the vocabulary; added tokens are not known here")
