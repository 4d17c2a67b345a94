"""Hugging Face's tokenizer.json, of the kinds there are here: BERT's WordPiece and byte-level BPE.

The file describes a pipeline in parts; each must be one that is known here, or the ids would be others. Special tokens
become rows and no more than that: in raw text they are ordinary characters.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bertjax.data.bpe import ByteBPE
from bertjax.data.specials import BERT
from bertjax.data.tokenizer import Tokenizer
from bertjax.data.vocabulary_files import in_order, read_object
from bertjax.data.wordpiece import WordPiece
from bertjax.errors import DataError


def read(file: Path) -> Tokenizer:
    """The tokenizer that a tokenizer.json describes."""
    data = read_object(file, "tokenizer.json")
    model = _part(file, data, "model")
    kinds = {"WordPiece": _wordpiece, "BPE": _bpe}
    if model.get("type") not in kinds:
        raise DataError(
            f"{file}: model.type is {model.get('type')!r}; of tokenizer.json files, WordPiece (BERT) and BPE "
            "(byte-level) are known; for SentencePiece give its spiece.model"
        )
    return kinds[model["type"]](file, data, _vocabulary(file, data, model))


def _wordpiece(file: Path, data: dict[str, Any], vocabulary: list[str]) -> Tokenizer:
    _expect(file, data, "model", continuing_subword_prefix=("##",), unk_token=("[UNK]",))
    normalizer = _expect(file, data, "normalizer", type=("BertNormalizer",), lowercase=(True, False))
    lowercase = normalizer["lowercase"]
    known = {"clean_text": (True,), "handle_chinese_chars": (True,), "strip_accents": (None, lowercase)}
    _expect(file, data, "normalizer", **known)
    _expect(file, data, "pre_tokenizer", type=("BertPreTokenizer",))
    if missing := set(BERT).difference(vocabulary):
        raise DataError(f"{file}: the vocabulary has no {missing.pop()}; BERT vocabularies have all of {tuple(BERT)}")
    return WordPiece(vocabulary, lowercase=lowercase)


def _bpe(file: Path, data: dict[str, Any], vocabulary: list[str]) -> Tokenizer:
    empty, off = (None, ""), (None, False)
    known = {"continuing_subword_prefix": empty, "end_of_word_suffix": empty, "byte_fallback": off}
    _expect(file, data, "model", **known, ignore_merges=off, dropout=(None, 0))
    steps = {"type": ("ByteLevel",), "use_regex": (None, True), "add_prefix_space": (True, False)}
    pre = _expect(file, data, "pre_tokenizer", **steps)
    lowercase = data.get("normalizer") is not None
    if lowercase:
        _expect(file, data, "normalizer", type=("Lowercase",))
    merges = data["model"].get("merges")
    if not isinstance(merges, list):
        raise DataError(f"{file}: model.merges is missing or no list; get the file anew")
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    for number, pair in enumerate(pairs, start=1):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(piece, str) for piece in pair):
            raise DataError(f"{file}: merge {number}, {pair!r}, is not two pieces")
    joined = [" ".join(pair) for pair in pairs]
    options = {"lowercase": lowercase, "prefix_space": pre["add_prefix_space"]}
    return ByteBPE.checked(vocabulary, joined, where=str(file), separators=_separators(data), **options)


def _separators(data: dict[str, Any]) -> int:
    """Marks between the texts of a pair, as the post-processor has them: two in RoBERTa's own and templates like it."""
    part = data.get("post_processor")
    steps = part.get("processors", [part]) if isinstance(part, dict) else []
    for step in steps if isinstance(steps, list) else []:
        pair = step.get("pair") if isinstance(step, dict) else None
        marks = sum("SpecialToken" in item for item in pair) if isinstance(pair, list) else 0
        if marks > 3 or (isinstance(step, dict) and step.get("type") == "RobertaProcessing"):
            return 2
    return 1


def _vocabulary(file: Path, data: dict[str, Any], model: dict[str, Any]) -> list[str]:
    """The model's rows and those of tokens that were added to it."""
    rows = dict(_part(file, model, "vocab", "model."))
    added = data.get("added_tokens") or []
    if not isinstance(added, list) or not all(isinstance(token, dict) for token in added):
        raise DataError(f"{file}: added_tokens is not a list of objects; get the file anew")
    for token in added:
        name, row = token.get("content"), token.get("id")
        if not isinstance(name, str) or rows.setdefault(name, row) != row:
            raise DataError(f"{file}: added token {name!r} has id {row!r}, in model.vocab {rows.get(name)!r}")
        if token.get("special") is not True:
            raise DataError(f"{file}: added token {name!r} is looked for in texts; only special ones are known")
    return in_order(rows, file)


def _part(file: Path, data: dict[str, Any], name: str, inside: str = "") -> dict[str, Any]:
    part = data.get(name)
    if not isinstance(part, dict):
        raise DataError(f"{file}: {inside}{name} is {type(part).__name__}, not an object; no such tokenizer is known")
    return part


def _expect(file: Path, data: dict[str, Any], name: str, **known: tuple[object, ...]) -> dict[str, Any]:
    """A part of the pipeline, each of whose named settings must be one of those that are `known`."""
    part = _part(file, data, name)
    for key, values in known.items():
        if part.get(key) not in values:
            listed = " or ".join(map(repr, values))
            raise DataError(f"{file}: {name}.{key} is {part.get(key)!r}; known: {listed}")
    return part
