"""What every tokenizer does, whatever its kind: text to ids and back, special tokens, and its travels.

A kind (`wordpiece`, ...) says how a text is cut. No kind ever makes a special id of what stands in a text.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bertjax.data.sampling import Texts, whole
from bertjax.data.specials import Specials
from bertjax.errors import ConfigError, DataError


class Corpus(NamedTuple):
    """The ids of many texts, one after the other: tokens i32[T]; of each text its tokens and white-space words."""

    tokens: np.ndarray
    lengths: np.ndarray  # i64[texts]
    words: np.ndarray  # i64[texts]

    def rows(self) -> list[list[int]]:
        """The ids of each text."""
        ends = np.cumsum(self.lengths).tolist()
        return [self.tokens[start:end].tolist() for start, end in pairwise([0, *ends])]


class Tokenizer(ABC):
    """A vocabulary and how it cuts text; equal `hash` means equal ids for every text."""

    separators = 1  # marks between the two texts of a pair: two in RoBERTa

    def __init__(self, vocabulary: Sequence[str], specials: Specials) -> None:
        self.vocabulary = list(vocabulary)
        self.specials = specials
        self.rows = {token: row for row, token in enumerate(self.vocabulary)}
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (self.rows[name] for name in specials)

    def __reduce__(self) -> tuple[Any, ...]:
        return Tokenizer.from_json, (self.to_json(),)

    # -- what a kind says of itself ------------------------------------------------------------------------------

    @abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without special tokens."""

    @abstractmethod
    def begins_word(self, token: str) -> bool:
        """Whether a row of the vocabulary, not a special one, stands at the beginning of a word."""

    @abstractmethod
    def join(self, ids: Iterable[int]) -> str:
        """The text that ids are read as."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values: how a tokenizer travels inside a checkpoint."""

    @abstractmethod
    def save(self, folder: str | Path) -> None:
        """Its files, as other tools read them."""

    # -- text to ids and back ------------------------------------------------------------------------------------

    @property
    def vocab_size(self) -> int:
        """Rows of the vocabulary; every id is below it."""
        return len(self.vocabulary)

    @property
    def mask_token(self) -> str:
        """What stands for the mask in a text to be filled in."""
        return self.specials.mask

    @cached_property
    def hash(self) -> str:
        """SHA-256 over all that decides the ids."""
        return hashlib.sha256(json.dumps(self.to_json()).encode()).hexdigest()

    @cached_property
    def starts_word(self) -> np.ndarray:
        """bool[V]: rows that begin a word (for whole-word masking); special tokens do.

        The first token of a text begins one too, though its row may say otherwise (byte-level BPE).
        """
        return np.array([token in self.specials or self.begins_word(token) for token in self.vocabulary], bool)

    def encode_corpus(self, texts: Sequence[str]) -> Corpus:
        """The ids of `encode_batch`, as fast as can be over many texts of prose."""
        rows = self.encode_batch(texts)
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        tokens = np.fromiter(chain.from_iterable(rows), np.int32, int(lengths.sum()))
        return Corpus(tokens, lengths, np.array([len(text.split()) for text in texts], np.int64))

    def running(self, sentences: Sequence[str]) -> list[str]:
        """A document's sentences as `encode_corpus` takes them: their ids, joined, are those of the running text.

        The running text has one space between sentences. To most kinds that is the same as a text for each.
        """
        return list(sentences)

    def encode_with_offsets(self, texts: Sequence[str]) -> list[tuple[list[int], np.ndarray]]:
        """The ids of `encode_batch`, and where each begins and ends in its text: i32[n,2], in code points."""
        raise ConfigError(
            f"a {self.to_json()['kind']} vocabulary does not say where its pieces lie in a text, as this task needs; "
            "take an encoder with a WordPiece or byte-level BPE vocabulary, or a tokenizer.json"
        )

    def encode_with_mask(self, text: str) -> list[int]:
        """Ids of a text in which `mask_token` does mean the mask (for filling in); it takes the space before it."""
        *before, last = text.split(self.mask_token)
        first, *rest = self._around_mask([*(part.rstrip(" ") for part in before), last])
        return first + [row for part in rest for row in (self.mask_id, *part)]

    def _around_mask(self, parts: Sequence[str]) -> list[list[int]]:
        return self.encode_batch(parts)

    def fill(self, text: str, row: int) -> str:
        """A text with a row of the vocabulary in the place of its one `mask_token`."""
        before, after = text.split(self.mask_token)
        return (before.rstrip(" ") + self.join([row])).lstrip(" ") + after

    def tokens(self, text: str) -> list[str]:
        """The pieces of a text, as the vocabulary has them: "playing" -> ["play", "##ing"]."""
        return [self.vocabulary[row] for row in self.encode_batch([text])[0]]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids; padding and the marks at the beginning and end of a text are left out."""
        return self.join(row for row in ids if row not in (self.pad_id, self.cls_id, self.sep_id))

    def pair_ids(
        self, a: Sequence[int], b: Sequence[int] | None = None, max_length: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """[CLS] a [SEP] or [CLS] a [SEP] b [SEP]: tokens i32[n], types i32[n]; n <= max_length. See `separators`.

        Too long a pair loses from the end of its longer side (run_classifier.py, _truncate_seq_pair).
        """
        marks = 2 if b is None else 2 + self.separators
        if max_length is not None:
            if max_length < marks + 1:
                raise ConfigError(f"max_length={max_length} leaves no room for text; at least {marks + 1}")
            keep_a, keep_b = shares(len(a), len(b or ()), max_length - marks)
            a, b = a[:keep_a], None if b is None else b[:keep_b]
        first = [self.cls_id, *a, *[self.sep_id] * (1 if b is None else self.separators)]
        second = [] if b is None else [*b, self.sep_id]
        types = np.repeat(np.array([0, 1], np.int32), [len(first), len(second)])
        return np.array(first + second, np.int32), types

    def __call__(
        self, text: str | Sequence[str], pair: str | Sequence[str] | None = None, max_length: int | None = None
    ) -> dict[str, np.ndarray]:
        """input_ids, token_type_ids, attention_mask: i32[L] for one text, i32[B, L] (padded) for a list."""
        texts = [text] if isinstance(text, str) else list(text)
        pairs = [pair] if isinstance(pair, str) else [] if pair is None else list(pair)
        if pairs and len(pairs) != len(texts):
            raise DataError(f"{len(texts)} texts but {len(pairs)} pairs; give one pair for each text")
        seconds = self.encode_batch(pairs) if pairs else [None] * len(texts)
        rows = [self.pair_ids(a, b, max_length) for a, b in zip(self.encode_batch(texts), seconds, strict=True)]
        shape = (len(rows), max((len(ids) for ids, _ in rows), default=0))
        out = {name: np.zeros(shape, np.int32) for name in ("input_ids", "token_type_ids", "attention_mask")}
        out["input_ids"][:] = self.pad_id
        for i, (ids, types) in enumerate(rows):
            out["input_ids"][i, : len(ids)] = ids
            out["token_type_ids"][i, : len(ids)] = types
            out["attention_mask"][i, : len(ids)] = 1
        return {name: array[0] for name, array in out.items()} if isinstance(text, str) else out

    # -- making and loading --------------------------------------------------------------------------------------

    @staticmethod
    def train(
        texts: Iterable[str],
        vocab_size: int,
        *,
        lowercase: bool,
        kind: str = "wordpiece",
        sentences: Callable[[str], list[str]] = whole,
        sample: int = 0,
        workers: int = 0,
    ) -> Tokenizer:
        """A vocabulary of at most `vocab_size` rows learnt from texts: the same texts give the same bytes.

        `sentences` cuts a text; by default it is one. Of more text than `sample` characters (0: as many as suit the
        kind) a random share is taken. `workers` processes count the words (wordpiece); it changes nothing else.
        """
        from bertjax.data import kinds

        return kinds.TRAINERS[kind](Texts(texts, sentences, sample, workers), vocab_size, lowercase=lowercase)

    @staticmethod
    def from_json(data: dict[str, Any]) -> Tokenizer:
        """The tokenizer that `to_json` described."""
        from bertjax.data import kinds

        vocabulary = data.get("vocabulary", [])
        if len({token for token in vocabulary if isinstance(token, str)}) < len(vocabulary):
            raise DataError("the vocabulary of a checkpoint has a token twice, or one that is no string")
        return kinds.KINDS[data["kind"]](**{name: value for name, value in data.items() if name != "kind"})

    @staticmethod
    def load(path: str | Path) -> Tokenizer:
        """From a folder with a tokenizer's files, or one of them: what is there tells the kind."""
        from bertjax.data import kinds  # here and above, as every kind stands on this module

        return kinds.read(Path(path))


def shares(a: int, b: int, room: int) -> tuple[int, int]:
    """How many of `a` and `b` tokens stay when one token at a time is taken from the longer until they fit."""
    keep_a = min(a, max(room - b, room - room // 2))
    return keep_a, min(b, room - keep_a)


def encodable(text: str) -> str:
    """A text whose lone surrogates, which no UTF-8 holds, are "?"."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
