"""Byte-level BPE (GPT-2, RoBERTa), trained here or loaded from vocab.json and merges.txt: no text is unknown to it.

A word carries the space before it; the first word of a text has none, as in GPT-2 and RoBERTa (of a corpus: the first
word of a document). Special tokens are RoBERTa's: <s> (first), </s> (end of a text), <pad>, <unk>, <mask>. GPT-2's
vocabulary has none of them: they become new rows after its own, whose ids stay as published. In raw text they are
ordinary characters.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from bertjax.data.offsets import LibraryBacked
from bertjax.data.sampling import Texts
from bertjax.data.specials import ROBERTA, named_in
from bertjax.data.tokenizer import encodable
from bertjax.data.vocabulary_files import MAX_BYTES, in_order, read_bytes, read_config, read_object, write_config
from bertjax.data.word_cache import WordTokenizer
from bertjax.errors import ConfigError, DataError

SAMPLE = 100_000_000  # characters to learn from, if no other number is asked for
SPACE = "Ġ"  # how a vocabulary writes the byte of a space
_LONE_SPACE = re.compile(r"(?<=\S)(?= \S)")
_PRINTED = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
# GPT-2 writes bytes that do not print as the letters from U+0100 (encoder.py, bytes_to_unicode).
_BYTES = {chr(byte): byte for byte in _PRINTED} | {
    chr(256 + n): byte for n, byte in enumerate(byte for byte in range(256) if byte not in _PRINTED)
}


class ByteBPE(LibraryBacked, WordTokenizer):
    """Words (with the space before them) as bytes, joined by the merges in the order of their rank."""

    def __init__(
        self,
        vocabulary: Sequence[str],
        merges: Sequence[str],
        *,
        lowercase: bool = False,
        prefix_space: bool = False,
        separators: int = 1,
    ) -> None:
        known = set(vocabulary)
        specials = named_in(known, ROBERTA)
        super().__init__([*vocabulary, *(name for name in specials if name not in known)], specials)
        self.merges, self.lowercase, self.prefix_space = list(merges), lowercase, prefix_space
        self.separators = separators
        pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in self.merges)]
        self._backend = tokenizers.Tokenizer(models.BPE(self.rows, pairs, unk_token=specials.unk))
        self._backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)

    def clean(self, text: str) -> str:
        """In lower case, where the vocabulary is."""
        return encodable(text.lower() if self.lowercase else text)

    def words(self, text: str) -> list[str]:
        """No piece goes across a lone space between two words; longer white space is left where it is."""
        first, *rest = text.split(" ")
        if ([first, *rest] if first else rest) != text.split():
            return _LONE_SPACE.split(text)
        spaced = [" " + word for word in rest]
        return [first, *spaced] if first else spaced

    def running(self, sentences: Sequence[str]) -> list[str]:
        """The space between two sentences belongs to the word after it."""
        return [*sentences[:1], *(" " + sentence for sentence in sentences[1:])]

    def begins_word(self, token: str) -> bool:
        """Whether a piece begins with a space."""
        return token.startswith(SPACE)

    def join(self, ids: Iterable[int]) -> str:
        """The bytes of the pieces as text."""
        return letters_to_text([self.vocabulary[row] for row in ids], self.specials)

    def to_json(self) -> dict[str, Any]:
        """Vocabulary, merges and what is done to a text first."""
        about: dict[str, Any] = {"lowercase": self.lowercase, "prefix_space": self.prefix_space}
        if self.separators > 1:  # left out else: the hashes of data prepared before there were two are kept
            about["separators"] = self.separators
        return {"kind": "bpe", **about, "vocabulary": self.vocabulary, "merges": self.merges}

    def save(self, folder: str | Path) -> None:
        """vocab.json, merges.txt and tokenizer_config.json, as other tools read them."""
        options: dict[str, Any] = {"do_lower_case": self.lowercase, "add_prefix_space": self.prefix_space}
        if self.separators > 1:
            options["pair_separators"] = self.separators
        write_config(folder, "RobertaTokenizer", self.specials, **options)
        (Path(folder) / "vocab.json").write_text(json.dumps(self.rows, ensure_ascii=False) + "\n", "utf-8")
        lines = "".join(f"{line}\n" for line in ["#version: 0.2", *self.merges])
        (Path(folder) / "merges.txt").write_bytes(lines.encode())

    @classmethod
    def learn(cls, texts: Texts, vocab_size: int, *, lowercase: bool) -> ByteBPE:
        """A vocabulary learnt from texts, of special tokens, the 256 bytes and merges.

        With all bytes given the library's trainer breaks ties by ids alone, so it is reproducible.
        """
        least = len(ROBERTA) + len(_BYTES)
        if vocab_size < least:
            raise ConfigError(f"vocab_size={vocab_size} is too small for byte-level BPE; at least {least}")
        lines = [encodable(text.lower() if lowercase else text) for text in texts.sample(SAMPLE)]
        backend = tokenizers.Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            special_tokens=list(ROBERTA),
            initial_alphabet=sorted(_BYTES),
            show_progress=False,
        )
        backend.train_from_iterator(lines, trainer)
        model = json.loads(backend.to_str())["model"]
        vocabulary = sorted(model["vocab"], key=model["vocab"].__getitem__)
        return cls(vocabulary, [" ".join(pair) for pair in model["merges"]], lowercase=lowercase)

    @classmethod
    def read(cls, file: Path) -> ByteBPE:
        """From a vocab.json with the merges.txt of the same name beside it."""
        merges_file = file.with_name(file.name.removesuffix("vocab.json") + "merges.txt")
        vocabulary = in_order(read_object(file, "vocab.json", MAX_BYTES), file)
        config = read_config(file.parent)
        return cls.checked(
            vocabulary,
            _read_merges(merges_file),
            where=str(merges_file),
            lowercase=config.get("do_lower_case") is True,
            prefix_space=config.get("add_prefix_space") is True,
            separators=2 if config.get("pair_separators") == 2 else 1,
        )

    @classmethod
    def checked(
        cls, vocabulary: Sequence[str], merges: Sequence[str], *, where: str, separators: int = 1, **options: bool
    ) -> ByteBPE:
        """A tokenizer of what was read from a file: every merge joins rows of the vocabulary into another."""
        known = set(vocabulary)
        if not known.intersection(_BYTES):
            raise DataError(f"{where}: the vocabulary has none of GPT-2's letters for bytes: not a byte-level BPE")
        for number, merge in enumerate(merges, start=1):
            left, _, right = merge.partition(" ")
            if missing := {left, right, left + right} - known:
                raise DataError(f"{where}: merge {number}, {merge!r}: {max(missing)!r} is not in the vocabulary")
        return cls(vocabulary, merges, separators=separators, **options)


def letters_to_text(tokens: Iterable[str], specials: Sequence[str]) -> str:
    """The text of pieces that are written in GPT-2's letters for bytes; special tokens stand as they are."""
    pieces = [t.encode() if t in specials else bytes(map(_BYTES.get, t, t.encode())) for t in tokens]
    return b"".join(pieces).decode("utf-8", "replace")


def _read_merges(file: Path) -> list[str]:
    merges = []
    lines = read_bytes(file, "merges.txt beside the vocab.json").split(b"\n")
    for number, line in enumerate(lines, start=1):
        try:
            merge = line.removesuffix(b"\r").decode()
        except UnicodeDecodeError:
            raise DataError(f"{file}:{number}: not UTF-8; get the file anew") from None
        if not merge or (number == 1 and merge.startswith("#version")):
            continue
        if merge.count(" ") != 1 or merge.strip() != merge:
            raise DataError(f"{file}:{number}: {merge!r} is not two pieces with a space between")
        merges.append(merge)
    return merges
