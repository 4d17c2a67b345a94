"""A tokenizer.json that is of no kind of our own (XLM-R's unigram, normal forms ...), run by `tokenizers` itself.

Its parts must be of those that are known to be bounded in time. Special tokens are rows and no more than that: the
model is given names for them that no text can have, as no word that it is asked for holds a space.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from bertjax.data.bpe import letters_to_text
from bertjax.data.offsets import encode_with_offsets
from bertjax.data.specials import ROBERTA, named_in
from bertjax.data.tokenizer import Tokenizer, encodable
from bertjax.data.vocabulary_files import in_order, write_config
from bertjax.errors import DataError

NORMALIZERS: tuple[str, ...] = ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "BertNormalizer")
NORMALIZERS += ("Strip", "Nmt", "Precompiled", "Prepend", "Replace")
PRE_TOKENIZERS = (
    "BertPreTokenizer",
    "Metaspace",
    "WhitespaceSplit",
    "Whitespace",
    "Punctuation",
    "Digits",
    "ByteLevel",
)
PATTERNS = (" {2,}",)  # of Replace, as regular expressions; plain strings may be any
MARKS = {"Metaspace": "▁", "ByteLevel": "Ġ"}  # what stands for the space before a word
UNMATCHABLE = " "  # before the name of a special token


class LibraryTokenizer(Tokenizer):
    """The pipeline that `file`, the content of a tokenizer.json, describes."""

    def __init__(self, file: Mapping[str, Any]) -> None:
        self.file = dict(file)
        vocabulary = in_order(rows_of(self.file, Path("tokenizer.json")), Path("tokenizer.json"))
        specials = named_in(set(vocabulary), ROBERTA)
        unknown = _unknown(self.file["model"])
        specials = specials._replace(unk=vocabulary[unknown] if isinstance(unknown, int) else unknown or specials.unk)
        known = set(vocabulary)
        super().__init__([*vocabulary, *(name for name in specials if name not in known)], specials)
        added = self.file.get("added_tokens") or []
        hidden = {token["content"] for token in added if token["special"]} | set(specials)
        self._backend = tokenizers.Tokenizer.from_str(json.dumps(_without(self.file, hidden)))
        self.space, self.separators = _space(self.file), separators_of(self.file)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without special tokens."""
        return [encoding.ids for encoding in self._backend.encode_batch_fast([encodable(text) for text in texts])]

    def encode_with_offsets(self, texts: Sequence[str]) -> list[tuple[list[int], np.ndarray]]:
        """The ids of `encode_batch`, and where each begins and ends in its text: i32[n,2], in code points."""
        return encode_with_offsets(self._backend, texts, [encodable(text) for text in texts])

    def running(self, sentences: Sequence[str]) -> list[str]:
        """The space between two sentences belongs to the word after it."""
        return [*sentences[:1], *(f" {sentence}" for sentence in sentences[1:])]

    def begins_word(self, token: str) -> bool:
        """Whether a piece begins with a space, or does not go on with a word."""
        return token.startswith(self.space) if self.space else not token.startswith("##")

    def join(self, ids: Iterable[int]) -> str:
        """The text of pieces, as their way of writing a space has it."""
        tokens = [self.vocabulary[row] for row in ids]
        if self.space == MARKS["ByteLevel"]:
            return letters_to_text(tokens, self.specials)
        if self.space:
            return "".join(tokens).replace(self.space, " ")
        return " ".join(tokens).replace(" ##", "")

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids, without the space that its first word carries."""
        return super().decode(ids).lstrip(" ")

    def to_json(self) -> dict[str, Any]:
        """The content of the file."""
        return {"kind": "library", "file": self.file}

    def save(self, folder: str | Path) -> None:
        """tokenizer.json and tokenizer_config.json, as other tools read them."""
        write_config(folder, "PreTrainedTokenizerFast", self.specials)
        (Path(folder) / "tokenizer.json").write_text(json.dumps(self.file, ensure_ascii=False) + "\n", "utf-8")

    @classmethod
    def checked(cls, file: Path, data: dict[str, Any]) -> LibraryTokenizer:
        """The tokenizer of a file, once it is sure that its parts are known."""
        _check_model(file, data)
        for name, known in (("normalizer", NORMALIZERS), ("pre_tokenizer", PRE_TOKENIZERS)):
            for part in _parts(data.get(name)):
                if part.get("type") not in known:
                    raise DataError(f"{file}: {name} has a {part.get('type')!r}; known: {', '.join(known)}")
                pattern = part.get("pattern")
                if part["type"] == "Replace" and not (isinstance(pattern, dict) and _harmless(pattern)):
                    raise DataError(f"{file}: normalizer replaces {pattern!r}; known: String, or Regex {PATTERNS[0]!r}")
        if not any(True for _ in _parts(data.get("pre_tokenizer"))):
            raise DataError(f"{file}: no pre_tokenizer, so nothing tells where a word begins")
        if not _space(data) and data["model"]["type"] != "WordPiece":
            raise DataError(f"{file}: no pre_tokenizer Metaspace (with '▁') or ByteLevel, so no piece begins a word")
        try:
            return cls(data)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic of the library is not an Exception
            raise DataError(f"{file}: the tokenizers library cannot read it ({error}); get the file anew") from None


def _check_model(file: Path, data: Mapping[str, Any]) -> None:
    model, unknown = data["model"], _unknown(data["model"])
    if model["type"] == "WordPiece" and model.get("continuing_subword_prefix") != "##":
        raise DataError(
            f"{file}: model.continuing_subword_prefix is {model.get('continuing_subword_prefix')!r}, not '##'"
        )
    if model.get("dropout"):
        raise DataError(f"{file}: model.dropout is {model['dropout']!r}: a text would have other ids each time")
    if isinstance(unknown, str) and unknown not in rows_of(data, file):
        raise DataError(f"{file}: model.unk_token {unknown!r} is not in the vocabulary; get the file anew")


def rows_of(data: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Token -> id, of the model and of the tokens that were added to it."""
    rows = data["model"].get("vocab")
    if data["model"].get("type") == "Unigram":
        pieces = [piece[0] if isinstance(piece, list) and len(piece) == 2 else None for piece in rows or []]
        if not all(isinstance(piece, str) for piece in pieces):
            raise DataError(f"{file}: model.vocab is not a list of [piece, score]; get the file anew")
        rows = {piece: row for row, piece in enumerate(pieces)}
        if len(rows) < len(pieces):
            raise DataError(f"{file}: model.vocab has a piece twice; get the file anew")
    if not isinstance(rows, dict):
        raise DataError(f"{file}: model.vocab is {type(rows).__name__}, not an object; no such tokenizer is known")
    rows = dict(rows)
    added = data.get("added_tokens") or []
    if not isinstance(added, list) or not all(isinstance(token, dict) for token in added):
        raise DataError(f"{file}: added_tokens is not a list of objects; get the file anew")
    for token in added:
        name, row = token.get("content"), token.get("id")
        if not isinstance(name, str) or rows.setdefault(name, row) != row:
            raise DataError(f"{file}: added token {name!r} has id {row!r}, in model.vocab {rows.get(name)!r}")
        if token.get("special") is not True:
            raise DataError(f"{file}: added token {name!r} is looked for in texts; only special ones are known")
    return rows


def separators_of(data: Mapping[str, Any]) -> int:
    """Marks between the texts of a pair, as the post-processor has them: two in RoBERTa's own and templates like it."""
    part = data.get("post_processor")
    steps = part.get("processors", [part]) if isinstance(part, dict) else []
    for step in steps if isinstance(steps, list) else []:
        pair = step.get("pair") if isinstance(step, dict) else None
        marks = sum("SpecialToken" in item for item in pair) if isinstance(pair, list) else 0
        if marks > 3 or (isinstance(step, dict) and step.get("type") == "RobertaProcessing"):
            return 2
    return 1


def _unknown(model: Mapping[str, Any]) -> str | int | None:
    unknown: str | int | None = model.get("unk_id" if model["type"] == "Unigram" else "unk_token")
    return unknown


def _without(data: Mapping[str, Any], hidden: set[str]) -> dict[str, Any]:
    """The file with the special tokens under names that no text has, and nothing that adds or finds them."""
    changed = {**data, "added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
    model = changed["model"] = copy.copy(data["model"])
    name = {token: UNMATCHABLE + token for token in hidden}
    if model["type"] == "Unigram":
        model["vocab"] = [[name.get(piece, piece), score] for piece, score in model["vocab"]]
    else:
        model["vocab"] = {name.get(token, token): row for token, row in model["vocab"].items()}
        if model.get("unk_token"):
            model["unk_token"] = name[model["unk_token"]]
    return changed


def _parts(part: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401 (JSON)
    """The steps of a normalizer or pre_tokenizer, however deep."""
    waiting = [part]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict) and part.get("type") == "Sequence":
            steps = part.get("normalizers") or part.get("pretokenizers") or []
            waiting += steps if isinstance(steps, list) else [steps]
        elif part is not None:
            yield part if isinstance(part, dict) else {"type": type(part).__name__}


def _space(data: Mapping[str, Any]) -> str:
    kinds = [part for part in _parts(data.get("pre_tokenizer")) if part["type"] in MARKS]
    marks = [part.get("replacement", MARKS["Metaspace"]) if part["type"] == "Metaspace" else "Ġ" for part in kinds]
    return marks[-1] if marks and marks[-1] in MARKS.values() else ""


def _harmless(pattern: Mapping[str, Any]) -> bool:
    return "String" in pattern or pattern.get("Regex") in PATTERNS
