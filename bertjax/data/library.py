"""A tokenizer.json that is of no kind of our own (XLM-R's unigram, normal forms ...), run by `tokenizers` itself.

Its parts must be of those that are known to be bounded in time. Special tokens are rows and no more than that: the
model is given names for them that no text can have, as no word that it is asked for holds a space.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from bertjax.data import pipelines
from bertjax.data.bpe import letters_to_text
from bertjax.data.offsets import LibraryBacked
from bertjax.data.specials import ROBERTA, named_in
from bertjax.data.vocabulary_files import in_order, write_config
from bertjax.errors import DataError

UNMATCHABLE = " "  # before the name of a special token


class LibraryTokenizer(LibraryBacked):
    """The pipeline that `file`, the content of a tokenizer.json, describes."""

    def __init__(self, file: Mapping[str, Any]) -> None:
        self.file = dict(file)
        vocabulary = in_order(pipelines.rows_of(self.file, Path("tokenizer.json")), Path("tokenizer.json"))
        specials = named_in(set(vocabulary), ROBERTA)
        unknown = pipelines.unknown_of(self.file["model"])
        specials = specials._replace(unk=vocabulary[unknown] if isinstance(unknown, int) else unknown or specials.unk)
        known = set(vocabulary)
        super().__init__([*vocabulary, *(name for name in specials if name not in known)], specials)
        added = self.file.get("added_tokens") or []
        hidden = {token["content"] for token in added if token["special"]} | set(specials)
        self._backend = tokenizers.Tokenizer.from_str(json.dumps(_without(self.file, hidden)))
        self.space, self.separators = pipelines.space_of(self.file), pipelines.separators_of(self.file)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without special tokens."""
        with _panics("a text"):
            return super().encode_batch(texts)

    def encode_with_offsets(self, texts: Sequence[str]) -> list[tuple[list[int], np.ndarray]]:
        """The ids of `encode_batch`, and where each begins and ends in its text: i32[n,2], in code points."""
        with _panics("a text"):
            return super().encode_with_offsets(texts)

    def running(self, sentences: Sequence[str]) -> list[str]:
        """The space between two sentences belongs to the word after it."""
        return [*sentences[:1], *(f" {sentence}" for sentence in sentences[1:])]

    def begins_word(self, token: str) -> bool:
        """Whether a piece begins with a space, or does not go on with a word."""
        return token.startswith(self.space) if self.space else not token.startswith("##")

    def join(self, ids: Iterable[int]) -> str:
        """The text of pieces, as their way of writing a space has it."""
        tokens = [self.vocabulary[row] for row in ids]
        if self.space == pipelines.MARKS["ByteLevel"]:
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
        pipelines.check(file, data)
        with _panics(str(file)):
            return cls(data)


@contextmanager
def _panics(what: str) -> Iterator[None]:
    """Where the library stops, which in a panic of its own is not an Exception, raises DataError."""
    try:
        yield
    except DataError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise  # a signal
        raise DataError(f"{what}: the tokenizers library cannot read it ({error}); get tokenizer.json anew") from None


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
