"""Where the pieces of a text lie in it, in code points."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from unicodedata import combining

import numpy as np


def in_texts(
    texts: Sequence[str], cleaned: Sequence[str], offsets: Sequence[Sequence[tuple[int, int]]]
) -> Iterator[np.ndarray]:
    """(begin, end) of each piece as i32[n,2] in `texts`, from that in `cleaned`, which may be the lower-case form.

    The space that a piece of byte-level BPE carries is left out; accents that an uncased vocabulary drops are in.
    """
    for text, clean, places in zip(texts, cleaned, offsets, strict=True):
        if len(clean) != len(text):  # "İ" becomes two characters
            origin = [index for index, letter in enumerate(text) for _ in letter.lower()]
            places = [(origin[begin], origin[end - 1] + 1) for begin, end in places]
        yield np.array([_trimmed(text, begin, end) for begin, end in places], np.int32).reshape(-1, 2)


def _trimmed(text: str, begin: int, end: int) -> tuple[int, int]:
    while begin < end and text[begin].isspace():
        begin += 1
    while end < len(text) and combining(text[end]):
        end += 1
    return begin, end
