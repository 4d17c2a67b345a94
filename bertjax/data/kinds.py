"""The kinds of tokenizer there are: which trains, which reads a file, which a checkpoint holds."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from bertjax.data import tokenizer_json
from bertjax.data.bpe import ByteBPE
from bertjax.data.library import LibraryTokenizer
from bertjax.data.spiece import SentencePiece
from bertjax.data.tokenizer import Tokenizer
from bertjax.data.vocabulary_files import MAX_BYTES, read_object
from bertjax.data.wordpiece import WordPiece
from bertjax.errors import DataError

KINDS: dict[str, Callable[..., Tokenizer]] = {  # as `to_json` names them
    "wordpiece": WordPiece,
    "bpe": ByteBPE,
    "sentencepiece": SentencePiece,
    "library": lambda file: LibraryTokenizer.checked(Path("tokenizer.json of a checkpoint"), file),
}
TRAINERS: dict[str, Callable[..., Tokenizer]] = {  # as `prepare --tokenizer-kind` names them
    "wordpiece": WordPiece.learn,
    "bpe": ByteBPE.learn,
    "unigram": partial(SentencePiece.learn, model_type="unigram"),
    "sentencepiece-bpe": partial(SentencePiece.learn, model_type="bpe"),
}
READERS = {  # the first of these that a folder has is read
    "vocab.txt": WordPiece.read,
    "vocab.json": ByteBPE.read,
    "spiece.model": SentencePiece.read,
    "tokenizer.json": tokenizer_json.read,
}


def read(path: Path) -> Tokenizer:
    """A tokenizer from its folder or one of its files, which may have a name of its own before the usual ending."""
    if path.is_dir():
        found = [name for name in READERS if (path / name).is_file()]
        if not found:
            raise DataError(f"{path}: no such vocabulary; give {' or '.join(READERS)}, or a folder that has one")
        return READERS[found[0]](path / found[0])
    if path.name.endswith("merges.txt"):
        path = path.with_name(path.name.removesuffix("merges.txt") + "vocab.json")
    name = {".json": "vocab.json", ".model": "spiece.model"}.get(path.suffix, "vocab.txt")
    # A vocab.json may have a token "model", but that has an id.
    if path.suffix == ".json" and isinstance(
        read_object(path, "vocab.json or tokenizer.json", MAX_BYTES).get("model"), dict
    ):
        name = "tokenizer.json"
    return READERS[name](path)
