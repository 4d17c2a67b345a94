"""The parts of a tokenizer.json that the `tokenizers` library is trusted with, and what they say of the ids.

A part that looks through texts by a regular expression of the file's may take forever; one that puts letters into them
makes them longer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

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
FINAL_SIGMA = r"(?<=[\p{Lu}\p{Ll}\p{Lt}])Σ(?![\p{Lu}\p{Ll}\p{Lt}])"
PATTERNS = (" {2,}", FINAL_SIGMA)  # of Replace, as regular expressions; plain strings may be any
SET = re.compile(r"\[[^\[\]\\^&]+\]\+?")  # as is one of, or a run of, the characters in brackets
LONGEST, GROWING = 8, 2  # characters put into a text, and how many steps may make it longer: each may by so many times
MARKS = {"Metaspace": "▁", "ByteLevel": "Ġ"}  # what stands for the space before a word


def check(file: Path, data: Mapping[str, Any]) -> None:
    """Raises where a tokenizer.json has parts that are not known here."""
    _check_model(file, data)
    for name, known in (("normalizer", NORMALIZERS), ("pre_tokenizer", PRE_TOKENIZERS)):
        for part in _parts(data.get(name)):
            if part.get("type") not in known:
                raise DataError(f"{file}: {name} has a {part.get('type')!r}; known: {', '.join(known)}")
            pattern = part.get("pattern")
            if part["type"] == "Replace" and not (isinstance(pattern, dict) and _harmless(pattern)):
                raise DataError(f"{file}: normalizer replaces {pattern!r}; known: String, or Regex {PATTERNS[0]!r}")
    growing = [part for part in _parts(data.get("normalizer")) if _grows(part)]
    if len(growing) > GROWING or any(len(_put(part)) > LONGEST for part in growing):
        raise DataError(
            f"{file}: normalizer makes texts longer by {len(growing)} of its parts, some by "
            f"{max(len(_put(part)) for part in growing):,} characters; known: {GROWING}, by {LONGEST}"
        )
    if not any(True for _ in _parts(data.get("pre_tokenizer"))):
        raise DataError(f"{file}: no pre_tokenizer, so nothing tells where a word begins")
    if not space_of(data) and data["model"]["type"] != "WordPiece":
        raise DataError(f"{file}: no pre_tokenizer Metaspace (with '▁') or ByteLevel, so no piece begins a word")


def _check_model(file: Path, data: Mapping[str, Any]) -> None:
    model, unknown = data["model"], unknown_of(data["model"])
    if model["type"] == "WordPiece" and model.get("continuing_subword_prefix") != "##":
        raise DataError(
            f"{file}: model.continuing_subword_prefix is {model.get('continuing_subword_prefix')!r}, not '##'"
        )
    if model.get("dropout"):
        raise DataError(f"{file}: model.dropout is {model['dropout']!r}: a text would have other ids each time")
    if model["type"] == "Unigram" and not (type(unknown) is int and 0 <= unknown < len(model.get("vocab") or ())):
        raise DataError(f"{file}: model.unk_id is {unknown!r}, not that of a piece; get the file anew")
    if isinstance(unknown, str) and unknown not in rows_of(data, file):
        raise DataError(f"{file}: model.unk_token {unknown!r} is not in the vocabulary; get the file anew")


def rows_of(data: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Token -> id, of the model and of the tokens that were added to it."""
    rows = data["model"].get("vocab")
    if data["model"].get("type") == "Unigram":
        listed = rows if isinstance(rows, list) else [None] * bool(rows)
        pieces = [piece[0] if isinstance(piece, list) and len(piece) == 2 else None for piece in listed]
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


def unknown_of(model: Mapping[str, Any]) -> str | int | None:
    """The token, or of a unigram the row, that stands for what is unknown."""
    unknown: str | int | None = model.get("unk_id" if model["type"] == "Unigram" else "unk_token")
    return unknown


def _put(part: Mapping[str, Any]) -> str:
    """What a step of a normalizer puts into a text."""
    return str(part.get({"Replace": "content", "Prepend": "prepend"}.get(part["type"], "")) or "")


def _grows(part: Mapping[str, Any]) -> bool:
    replaced = str(part["pattern"].get("String", " ")) if part["type"] == "Replace" else ""
    return len(_put(part)) > len(replaced)


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


def space_of(data: Mapping[str, Any]) -> str:
    """What a piece begins with where it has the space before it; "" where none does."""
    kinds = [part for part in _parts(data.get("pre_tokenizer")) if part["type"] in MARKS]
    marks = [part.get("replacement", MARKS["Metaspace"]) if part["type"] == "Metaspace" else "Ġ" for part in kinds]
    return marks[-1] if marks and marks[-1] in MARKS.values() else ""


def _harmless(pattern: Mapping[str, Any]) -> bool:
    return "String" in pattern or pattern.get("Regex") in PATTERNS or bool(SET.fullmatch(str(pattern.get("Regex"))))
