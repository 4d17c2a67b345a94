"""What the `tokenizers` library makes of texts: ids, and where the pieces lie, in code points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from unicodedata import combining

import numpy as np

from bertjax.data.tokenizer import Tokenizer, encodable


class LibraryBacked(Tokenizer):
    """A kind whose ids are those of a pipeline of the library."""

    _backend: Any  # a tokenizers.Tokenizer

    def clean(self, text: str) -> str:
        """What the pipeline is given of a text: the text, or its lower-case form."""
        return encodable(text)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without special tokens."""
        return [encoding.ids for encoding in self._backend.encode_batch_fast([self.clean(text) for text in texts])]

    def encode_with_offsets(self, texts: Sequence[str]) -> list[tuple[list[int], np.ndarray]]:
        """The ids of `encode_batch`, and where each begins and ends in its text: i32[n,2], in code points.

        The space that a piece carries is left out; accents that an uncased vocabulary drops are in.
        """
        cleaned = [self.clean(text) for text in texts]
        encodings = self._backend.encode_batch(cleaned, add_special_tokens=False)
        return [
            (encoding.ids, _places(text, clean, encoding.offsets))
            for text, clean, encoding in zip(texts, cleaned, encodings, strict=True)
        ]


def _places(text: str, clean: str, offsets: Sequence[tuple[int, int]]) -> np.ndarray:
    if len(clean) != len(text):  # "İ" becomes two characters
        origin = [index for index, letter in enumerate(text) for _ in letter.lower()]
        offsets = [(origin[begin], origin[end - 1] + 1) for begin, end in offsets]
    return np.array([_trimmed(text, begin, end) for begin, end in offsets], np.int32).reshape(-1, 2)


def _trimmed(text: str, begin: int, end: int) -> tuple[int, int]:
    while begin < end and text[begin].isspace():
        begin += 1
    while end < len(text) and combining(text[end]):
        end += 1
    return begin, end
