"""BERT's WordPiece: text to ids and back (google-research/bert, tokenization.py), trained here or loaded.

Two habits of the `tokenizers` library are mended: words of up to 200 characters are cut into pieces (its default
is 100), and a literal "[MASK]" or "[SEP]" in raw text is three ordinary pieces, never a special id.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

from bertjax.data.wordpiece import SPECIALS, learn_pieces
from bertjax.errors import ConfigError, DataError

CACHED_WORDS = 500_000  # of at most CACHED_LENGTH characters: about 150 MB
CACHED_LENGTH = 40
MAX_VOCABULARY_BYTES = 64 << 20
_MARKS = re.compile(r"([!-/:-@\[-`{-~])")  # what is neither letter nor digit in ASCII


class Tokenizer:
    """A vocabulary and its casing; equal `hash` means equal ids for every text."""

    def __init__(self, vocabulary: Sequence[str], *, lowercase: bool) -> None:
        self.vocabulary = list(vocabulary)
        self.lowercase = lowercase
        rows = {token: row for row, token in enumerate(self.vocabulary)}
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (rows[token] for token in SPECIALS)
        self.hash = hashlib.sha256(json.dumps([self.lowercase, self.vocabulary]).encode()).hexdigest()
        model = models.WordPiece(rows, unk_token="[UNK]", max_input_chars_per_word=200)
        self._backend = tokenizers.Tokenizer(model)
        self._backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
        self._backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        self._words: dict[str, list[int]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Tokenizer.from_json, (self.to_json(),)

    @property
    def vocab_size(self) -> int:
        """Rows of the vocabulary; every id is below it."""
        return len(self.vocabulary)

    # -- text to ids ---------------------------------------------------------------------------------------------

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without special tokens."""
        return [encoding.ids for encoding in self._backend.encode_batch_fast([_encodable(text) for text in texts])]

    def encode_corpus(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of `encode_batch`, several times faster on prose: words seen before come from a bounded cache.

        BERT ends a word at every space and makes a word of every ASCII mark, whatever stands around them, so the
        ids of a text are those of its parts.
        """
        if len(self._words) > CACHED_WORDS:
            self._words.clear()
        known = self._words.__getitem__
        words = [text.split(" ") for text in texts]
        parts = {word: _MARKS.split(word) for word in set(chain.from_iterable(words)).difference(self._words)}
        unknown = list(set(chain.from_iterable(parts.values())).difference(self._words))
        self._words.update(zip(unknown, self.encode_batch(unknown), strict=True))
        self._words.update({word: list(chain.from_iterable(map(known, pieces))) for word, pieces in parts.items()})
        ids = [list(chain.from_iterable(map(known, row))) for row in words]
        for word in {*parts, *unknown}:
            if len(word) > CACHED_LENGTH:
                del self._words[word]
        return ids

    def encode_with_mask(self, text: str) -> list[int]:
        """Ids of a text in which a literal "[MASK]" does mean the mask (for filling in)."""
        first, *rest = self.encode_batch(text.split("[MASK]"))
        return first + [row for part in rest for row in (self.mask_id, *part)]

    def tokens(self, text: str) -> list[str]:
        """The word pieces of a text: "playing" -> ["play", "##ing"]."""
        return [self.vocabulary[row] for row in self.encode_batch([text])[0]]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids with the pieces of a word joined; [PAD], [CLS] and [SEP] are left out."""
        hidden = {self.pad_id, self.cls_id, self.sep_id}
        return " ".join(self.vocabulary[row] for row in ids if row not in hidden).replace(" ##", "")

    def pair_ids(
        self, a: Sequence[int], b: Sequence[int] | None = None, max_length: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """[CLS] a [SEP] or [CLS] a [SEP] b [SEP]: tokens i32[n], types i32[n]; n <= max_length.

        Too long a pair loses from the end of its longer side (create_pretraining_data.py, truncate_seq_pair).
        """
        marks = 2 if b is None else 3
        if max_length is not None:
            if max_length < marks + 1:
                raise ConfigError(f"max_length={max_length} leaves no room for text; at least {marks + 1}")
            keep_a, keep_b = shares(len(a), len(b or ()), max_length - marks)
            a, b = a[:keep_a], None if b is None else b[:keep_b]
        first = [self.cls_id, *a, self.sep_id]
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

    # -- making, saving, loading ---------------------------------------------------------------------------------

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, lowercase: bool) -> Tokenizer:
        """A vocabulary of at most `vocab_size` pieces learnt from texts: the same texts give the same bytes."""
        normalizer = normalizers.BertNormalizer(lowercase=lowercase)
        splitter = pre_tokenizers.BertPreTokenizer()

        def split(word: str) -> list[str]:
            return [part for part, _ in splitter.pre_tokenize_str(normalizer.normalize_str(_encodable(word)))]

        return cls(learn_pieces(texts, split, vocab_size), lowercase=lowercase)

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values: how a tokenizer travels inside a checkpoint."""
        return {"kind": "wordpiece", "lowercase": self.lowercase, "vocabulary": self.vocabulary}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Tokenizer:
        """The tokenizer that `to_json` described."""
        return cls(data["vocabulary"], lowercase=data["lowercase"])

    def save(self, folder: str | Path) -> None:
        """vocab.txt and tokenizer_config.json, as other BERT tools read them."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "vocab.txt").write_bytes("".join(f"{token}\n" for token in self.vocabulary).encode())
        config = {"tokenizer_class": "BertTokenizer", "do_lower_case": self.lowercase}
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """From a folder with vocab.txt, or a vocabulary file; without a config, capital letters mean cased."""
        path = Path(path)
        file = path / "vocab.txt" if path.is_dir() else path
        vocabulary = _read_vocabulary(file)
        config = file.with_name("tokenizer_config.json")
        if config.exists():
            try:
                lowercase = json.loads(config.read_bytes()).get("do_lower_case")
            except (ValueError, AttributeError) as error:
                raise DataError(f"{config}: not a JSON object ({error}); mend it or remove it") from None
            if isinstance(lowercase, bool):
                return cls(vocabulary, lowercase=lowercase)
        cased = any("A" <= letter <= "Z" for token in vocabulary if not token.startswith("[") for letter in token)
        return cls(vocabulary, lowercase=not cased)


def shares(a: int, b: int, room: int) -> tuple[int, int]:
    """How many of `a` and `b` tokens stay when one token at a time is taken from the longer until they fit."""
    keep_a = min(a, max(room - b, room - room // 2))
    return keep_a, min(b, room - keep_a)


def _encodable(text: str) -> str:
    """A text whose lone surrogates, which no UTF-8 holds, are "?"."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _read_vocabulary(file: Path) -> list[str]:
    if not file.is_file():
        raise DataError(f"{file}: no such vocabulary; give a vocab.txt or a folder that has one")
    if file.stat().st_size > MAX_VOCABULARY_BYTES:
        raise DataError(f"{file}: over {MAX_VOCABULARY_BYTES >> 20} MB, so not a vocabulary (one token a line)")
    lines = file.read_bytes().removesuffix(b"\n").split(b"\n")
    rows: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        try:
            token = line.removesuffix(b"\r").decode()
        except UnicodeDecodeError:
            raise DataError(f"{file}:{number}: not UTF-8; save the vocabulary as UTF-8") from None
        if not token.strip():
            raise DataError(f"{file}:{number}: empty line; a vocabulary has one token on every line")
        if token in rows:
            raise DataError(f"{file}:{number}: {token!r} stands on line {rows[token]} already; remove one of them")
        rows[token] = number
    missing = [token for token in SPECIALS if token not in rows]
    if missing:
        raise DataError(
            f"{file}:{len(lines)}: ends without {' '.join(missing)}; BERT vocabularies list all of {SPECIALS}"
        )
    return list(rows)
