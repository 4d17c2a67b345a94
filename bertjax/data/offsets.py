"""Where the pieces of a text lie in it, in code points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from unicodedata import combining

import numpy as np


def encode_with_offsets(
    backend: Any,  # noqa: ANN401 (a tokenizers.Tokenizer)
    texts: Sequence[str],
    cleaned: Sequence[str],
) -> list[tuple[list[int], np.ndarray]]:
    """Ids of `cleaned` texts, and (begin, end) of each piece as i32[n,2] in `texts`, of which they may be the
    lower-case form.

    The space that a piece carries is left out; accents that an uncased vocabulary drops are in.
    """
    encodings = backend.encode_batch(cleaned, add_special_tokens=False)
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
