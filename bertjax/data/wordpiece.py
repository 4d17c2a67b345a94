"""BERT's WordPiece (google-research/bert, tokenization.py), trained here or loaded from a vocab.txt.

Three habits of the `tokenizers` library are mended: words of up to 200 characters are cut into pieces (its default
is 100), a literal "[MASK]" or "[SEP]" in raw text is three ordinary pieces, never a special id, and a capital sigma at
the end of a word becomes "ς", as Python has it. Its tables of Unicode stay: characters for private use vanish, and
punctuation of later versions (from U+2E43 on) and later CJK ideographs (from U+2B820 on) are letters of a word.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

from bertjax.data.offsets import LibraryBacked
from bertjax.data.sampling import Texts, whole
from bertjax.data.specials import BERT as SPECIALS
from bertjax.data.tokenizer import encodable
from bertjax.data.vocabulary_files import read_bytes, read_config, write_config
from bertjax.data.word_cache import WordTokenizer
from bertjax.data.wordpiece_training import learn_pieces
from bertjax.errors import DataError

LONGEST_WORD = 200  # characters
_PARTS = re.compile(r"[!-/:-@\[-`{-~]|[^!-/:-@\[-`{-~]+")  # marks (ASCII but no letter, no digit) and what is between


class WordPiece(LibraryBacked, WordTokenizer):
    """Words cut at spaces and punctuation, then into the longest pieces there are; "##" goes on with a word."""

    def __init__(self, vocabulary: Sequence[str], *, lowercase: bool) -> None:
        super().__init__(vocabulary, SPECIALS)
        self.lowercase = lowercase
        self._longest = max(map(len, self.vocabulary))
        model = models.WordPiece(self.rows, unk_token=SPECIALS.unk, max_input_chars_per_word=LONGEST_WORD)
        self._backend = tokenizers.Tokenizer(model)
        self._backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
        self._backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()

    @cached_property
    def hash(self) -> str:
        """As prepared corpora hold it since before there were other kinds."""
        return hashlib.sha256(json.dumps([self.lowercase, self.vocabulary]).encode()).hexdigest()

    def clean(self, text: str) -> str:
        """With "ς" for the capital sigma at the end of a word, which the library does not know."""
        return _clean(text, self.lowercase)

    def words(self, text: str) -> list[str]:
        """BERT ends a word at every space, whatever stands around it."""
        return text.split(" ")

    def _encode_words(self, words: Sequence[str]) -> list[list[int]]:
        """BERT makes a word of every ASCII mark; ASCII words are cut here, of others the library sees new ones once."""
        parts = [_PARTS.findall(word if word.isascii() else self.clean(word)) for word in words]
        ids: dict[str, list[int]] = {}
        others: list[str] = []
        for part in set(chain.from_iterable(parts)):
            if part.isascii() and part.isprintable():
                plain = part.lower() if self.lowercase else part
                row = self.rows.get(plain)
                ids[part] = self._pieces(plain) if row is None or len(plain) > LONGEST_WORD else [row]
            elif (known := self._learnt(part)) is not None:
                ids[part] = known
            else:
                others.append(part)
        ids.update(zip(others, self.encode_batch(others), strict=True))
        return [
            ids[several[0]] if len(several) == 1 else list(chain.from_iterable(map(ids.__getitem__, several)))
            for several in parts
        ]

    def _pieces(self, word: str) -> list[int]:
        """The longest piece there is, again and again (WordpieceTokenizer)."""
        size, start, mark = len(word), 0, ""
        ids: list[int] = []
        while start < size <= LONGEST_WORD:
            end = min(size, start + self._longest)
            while (row := self.rows.get(mark + word[start:end])) is None:
                end -= 1
                if end == start:
                    return [self.unk_id]
            ids.append(row)
            start, mark = end, "##"
        return ids or [self.unk_id]

    def begins_word(self, token: str) -> bool:
        """Whether a piece does not go on with a word."""
        return not token.startswith("##")

    def join(self, ids: Iterable[int]) -> str:
        """Pieces with a space between, those of a word joined."""
        return " ".join(self.vocabulary[row] for row in ids).replace(" ##", "")

    def fill(self, text: str, row: int) -> str:
        """A text with a piece in the place of [MASK]."""
        return text.replace(self.mask_token, self.vocabulary[row])

    def to_json(self) -> dict[str, Any]:
        """Casing and vocabulary."""
        return {"kind": "wordpiece", "lowercase": self.lowercase, "vocabulary": self.vocabulary}

    def save(self, folder: str | Path) -> None:
        """vocab.txt and tokenizer_config.json, as other BERT tools read them."""
        write_config(folder, "BertTokenizer", self.specials, do_lower_case=self.lowercase)
        (Path(folder) / "vocab.txt").write_bytes("".join(f"{token}\n" for token in self.vocabulary).encode())

    @classmethod
    def learn(cls, texts: Texts, vocab_size: int, *, lowercase: bool) -> WordPiece:
        """A vocabulary learnt from texts, all of them if no number of characters is asked for."""
        normalizer = normalizers.BertNormalizer(lowercase=lowercase)
        splitter = pre_tokenizers.BertPreTokenizer()

        def split(word: str) -> list[str]:
            if word.isascii() and word.isprintable():
                return _PARTS.findall(word.lower() if lowercase else word)
            return [part for part, _ in splitter.pre_tokenize_str(normalizer.normalize_str(_clean(word, lowercase)))]

        if texts.most:
            texts = texts._replace(texts=texts.sample(texts.most), sentences=whole)
        return cls(learn_pieces(texts, split, vocab_size), lowercase=lowercase)

    @classmethod
    def read(cls, file: Path) -> WordPiece:
        """From a vocab.txt; where no tokenizer_config.json beside it says otherwise, capital letters mean cased."""
        vocabulary = _read_vocabulary(file)
        lowercase = read_config(file.parent).get("do_lower_case")
        if isinstance(lowercase, bool):
            return cls(vocabulary, lowercase=lowercase)
        cased = any("A" <= letter <= "Z" for token in vocabulary if not token.startswith("[") for letter in token)
        return cls(vocabulary, lowercase=not cased)


def _clean(text: str, lowercase: bool) -> str:
    return encodable(text.lower() if lowercase and "Σ" in text else text)


def _read_vocabulary(file: Path) -> list[str]:
    lines = read_bytes(file, "vocab.txt").removesuffix(b"\n").split(b"\n")
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
            f"{file}:{len(lines)}: ends without {' '.join(missing)}; BERT vocabularies list all of {tuple(SPECIALS)}"
        )
    return list(rows)
