"""The documents of a corpus: the files that paths and globs name, one after the other, in bounded memory."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from bertjax.data import formats
from bertjax.data.duplicates import Seen
from bertjax.data.formats import Caps
from bertjax.data.sentences import split_sentences
from bertjax.errors import DataError

EMPTY = "empty documents (dropped)"
DUPLICATES = "documents that came before (dropped)"


def files(patterns: Sequence[str]) -> list[Path]:
    """The files that paths and globs name, each once; a pattern that names none raises DataError."""
    found: dict[Path, None] = {}
    for pattern in patterns:
        paths = [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]
        regular = [path for path in paths if path.is_file()]
        if not regular:
            hint = f"a folder; name its files, as {pattern}/*.txt" if paths else "no such file"
            raise DataError(f"{pattern}: {hint}")
        found.update(dict.fromkeys(regular))
    return list(found)


def documents(
    patterns: Sequence[str],
    *,
    wrapped: bool = False,
    text_column: str = "text",
    caps: Caps = Caps(),  # noqa: B008 (frozen)
    deduplicate: bool = False,
    counts: Counter[str],
) -> Iterator[list[str]]:
    """Documents, as lists of lines, of text, WikiExtractor, JSON lines and Parquet files (formats.py).

    In text files a blank line ends a document; `wrapped` says that their lines are broken to a width. Of equal
    documents `deduplicate` keeps the first. `counts` gathers what was mended, cut or dropped and why, and the bytes
    read.
    """
    seen = Seen()
    for path in files(patterns):
        for document in formats.read(path, wrapped=wrapped, text_column=text_column, caps=caps, counts=counts):
            if not document:
                counts[EMPTY] += 1
            elif deduplicate and not seen.new(document):
                counts[DUPLICATES] += 1
            else:
                yield document


def sentences(document: Sequence[str]) -> list[str]:
    """The sentences of a document's lines; a line ends a sentence."""
    return [sentence for line in document for sentence in split_sentences(line)]
