"""The files by which AutoTokenizer gives the ids of one of our tokenizers."""

import json
from pathlib import Path
from typing import Any

from bertjax.data.bpe import ByteBPE
from bertjax.data.spiece import FAST, SentencePiece
from bertjax.data.tokenizer import Tokenizer
from bertjax.data.vocabulary_files import CONFIG, MAX_BYTES, read_config, read_object
from bertjax.data.wordpiece import LONGEST_WORD, WordPiece
from bertjax.hf import unigram

FILE = "tokenizer.json"
# Normalizer, pre-tokenizer, model and decoder of a tokenizer.json.
Parts = tuple[dict[str, Any] | None, dict[str, Any], dict[str, Any], dict[str, Any]]


def write(tokenizer: Tokenizer, folder: Path, max_length: int, types: int = 2) -> None:
    """The vocabulary's own files, tokenizer.json, tokenizer_config.json and special_tokens_map.json.

    Texts are cut to `max_length`; the model they are for knows `types` types of token.
    """
    tokenizer.save(folder)
    config = {**read_config(folder), "model_max_length": max_length}
    if pipeline := described(tokenizer, types):
        _write(folder / FILE, pipeline)
    if (folder / FILE).is_file():
        # This class does what tokenizer.json says. BERT's has words of at most 100 characters (from transformers 5 on
        # whatever the file says), RoBERTa's and GPT-2's have pairs of their own.
        inputs = ["input_ids", "token_type_ids", "attention_mask"] if types > 1 else ["input_ids", "attention_mask"]
        config |= {"tokenizer_class": FAST, "model_input_names": inputs}
    _write(folder / CONFIG, config)
    _write(folder / "special_tokens_map.json", {key: config[key] for key in config if key.endswith("_token")})


def described(tokenizer: Tokenizer, types: int = 2) -> dict[str, Any] | None:
    """The content of a tokenizer.json; None where the tokenizer has its own, or where none can say what it does."""
    if isinstance(tokenizer, WordPiece):
        parts = _wordpiece(tokenizer)
    elif isinstance(tokenizer, ByteBPE):
        parts = _bpe(tokenizer)
    elif isinstance(tokenizer, SentencePiece) and not unigram.why_not(tokenizer):
        parts = unigram.parts(tokenizer)
    else:
        return None
    return _pipeline(tokenizer, min(types, 2), *parts)


def of_spiece(folder: Path) -> SentencePiece | None:
    """The SentencePiece model that a folder's tokenizer.json was written from, where it has it, too.

    Of pieces that are equally likely it takes those that it took in training.
    """
    if not (folder / "spiece.model").is_file() or "keep_accents" not in read_config(folder):
        return None
    tokenizer = SentencePiece.read(folder / "spiece.model")
    expected, found = described(tokenizer), read_object(folder / FILE, FILE, MAX_BYTES)
    same = expected and all(found.get(key) == expected[key] for key in ("normalizer", "pre_tokenizer", "model"))
    return tokenizer if same else None


def _write(file: Path, value: dict[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _wordpiece(tokenizer: WordPiece) -> Parts:
    normalizer = {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": True,
        "strip_accents": None,
        "lowercase": tokenizer.lowercase,
    }
    model = {
        "type": "WordPiece",
        "unk_token": tokenizer.specials.unk,
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": LONGEST_WORD,
        "vocab": tokenizer.rows,
    }
    decoder = {"type": "WordPiece", "prefix": "##", "cleanup": True}
    return normalizer, {"type": "BertPreTokenizer"}, model, decoder


def _bpe(tokenizer: ByteBPE) -> Parts:
    bytes_ = {"type": "ByteLevel", "add_prefix_space": tokenizer.prefix_space, "trim_offsets": True, "use_regex": True}
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": tokenizer.specials.unk,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "vocab": tokenizer.rows,
        "merges": tokenizer.merges,
    }
    return {"type": "Lowercase"} if tokenizer.lowercase else None, bytes_, model, bytes_


def _pipeline(
    tokenizer: Tokenizer,
    types: int,
    normalizer: dict[str, Any] | None,
    pre_tokenizer: dict[str, Any],
    model: dict[str, Any],
    decoder: dict[str, Any],
) -> dict[str, Any]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    names = set(tokenizer.specials)
    if isinstance(tokenizer, SentencePiece):
        names |= unigram.marks(tokenizer)
    rows = sorted((tokenizer.rows[name], name) for name in names)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": row, "content": name, **plain} for row, name in rows],
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": _template(tokenizer, types),
        "decoder": decoder,
        "model": model,
    }


def _template(tokenizer: Tokenizer, types: int) -> dict[str, Any]:
    """[CLS] A [SEP] of type 0, B [SEP] of the last type; or with more separators between them."""
    names, last = tokenizer.specials, types - 1

    def mark(name: str, kind: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": name, "type_id": kind}}

    def text(which: str, kind: int) -> dict[str, Any]:
        return {"Sequence": {"id": which, "type_id": kind}}

    first = [mark(names.cls, 0), text("A", 0), mark(names.sep, 0)]
    special = {name: {"id": name, "ids": [tokenizer.rows[name]], "tokens": [name]} for name in (names.cls, names.sep)}
    return {
        "type": "TemplateProcessing",
        "single": first,
        "pair": [*first, *first[2:] * (tokenizer.separators - 1), text("B", last), mark(names.sep, last)],
        "special_tokens": special,
    }
