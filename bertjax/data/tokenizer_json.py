"""Hugging Face's tokenizer.json: BERT's WordPiece and byte-level BPE as our own kinds, others as the library has them.

The file describes a pipeline in parts; each must be one that is known here, or the ids would be others. Special tokens
become rows and no more than that: in raw text they are ordinary characters.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bertjax.data.bpe import ByteBPE
from bertjax.data.library import LibraryTokenizer
from bertjax.data.pipelines import rows_of, separators_of
from bertjax.data.specials import BERT
from bertjax.data.tokenizer import Tokenizer
from bertjax.data.vocabulary_files import MAX_BYTES, in_order, read_object
from bertjax.data.wordpiece import WordPiece
from bertjax.errors import DataError


class _OtherKind(Exception):
    """A part of the pipeline is none that our own kinds have."""


def read(file: Path) -> Tokenizer:
    """The tokenizer that a tokenizer.json describes."""
    data = read_object(file, "tokenizer.json", MAX_BYTES)
    model = data.get("model")
    if not isinstance(model, dict):
        raise DataError(f"{file}: model is {type(model).__name__}, not an object; no such tokenizer is known")
    kinds = {"WordPiece": _wordpiece, "BPE": _bpe, "Unigram": _other}
    if model.get("type") not in kinds:
        raise DataError(f"{file}: model.type is {model.get('type')!r}; known: {', '.join(kinds)}")
    vocabulary = in_order(rows_of(data, file), file)
    try:
        return kinds[model["type"]](file, data, vocabulary)
    except _OtherKind:
        return LibraryTokenizer.checked(file, data)


def _other(file: Path, data: dict[str, Any], vocabulary: list[str]) -> Tokenizer:
    raise _OtherKind


def _wordpiece(file: Path, data: dict[str, Any], vocabulary: list[str]) -> Tokenizer:
    _expect(data, "model", continuing_subword_prefix=("##",), unk_token=("[UNK]",))
    normalizer = _expect(data, "normalizer", type=("BertNormalizer",), lowercase=(True, False))
    lowercase = normalizer["lowercase"]
    known = {"clean_text": (True,), "handle_chinese_chars": (True,), "strip_accents": (None, lowercase)}
    _expect(data, "normalizer", **known)
    _expect(data, "pre_tokenizer", type=("BertPreTokenizer",))
    if missing := set(BERT).difference(vocabulary):
        raise DataError(f"{file}: the vocabulary has no {missing.pop()}; BERT vocabularies have all of {tuple(BERT)}")
    return WordPiece(vocabulary, lowercase=lowercase)


def _bpe(file: Path, data: dict[str, Any], vocabulary: list[str]) -> Tokenizer:
    empty, off = (None, ""), (None, False)
    known = {"continuing_subword_prefix": empty, "end_of_word_suffix": empty, "byte_fallback": off}
    _expect(data, "model", **known, ignore_merges=off, dropout=(None, 0))
    steps = {"type": ("ByteLevel",), "use_regex": (None, True), "add_prefix_space": (True, False)}
    pre = _expect(data, "pre_tokenizer", **steps)
    lowercase = data.get("normalizer") is not None
    if lowercase:
        _expect(data, "normalizer", type=("Lowercase",))
    merges = data["model"].get("merges")
    if not isinstance(merges, list):
        raise DataError(f"{file}: model.merges is missing or no list; get the file anew")
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    for number, pair in enumerate(pairs, start=1):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(piece, str) for piece in pair):
            raise DataError(f"{file}: merge {number}, {pair!r}, is not two pieces")
    joined = [" ".join(pair) for pair in pairs]
    options = {"lowercase": lowercase, "prefix_space": pre["add_prefix_space"]}
    return ByteBPE.checked(vocabulary, joined, where=str(file), separators=separators_of(data), **options)


def _expect(data: dict[str, Any], name: str, **known: tuple[object, ...]) -> dict[str, Any]:
    """A part of the pipeline, each of whose named settings is one of those that are `known`."""
    part = data.get(name)
    if not isinstance(part, dict) or any(part.get(key) not in values for key, values in known.items()):
        raise _OtherKind
    return part
