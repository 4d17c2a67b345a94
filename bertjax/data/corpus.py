"""The documents of a corpus: the files that paths and globs name, one after the other, in bounded memory."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from bertjax.data import formats, tfds
from bertjax.data.duplicates import Seen
from bertjax.data.formats import Caps
from bertjax.data.sentences import split_sentences
from bertjax.errors import DataError

EMPTY = "empty documents (dropped)"
DUPLICATES = "documents that came before (dropped)"
KEPT = "documents that came before (kept; --deduplicate drops them)"
LOOKED_FOR = 1 << 23  # documents that are remembered to tell of those that are kept: in 128 MiB


def sources(patterns: Sequence[str]) -> list[Path | str]:
    """The files that paths and globs name, and data sets as tfds:..., each once; what names none raises DataError."""
    found: dict[Path | str, None] = {}
    for pattern in patterns:
        if pattern.startswith(tfds.PREFIX):
            found[pattern] = None
            continue
        if "://" in pattern:
            raise DataError(
                f"{pattern}: text is read from files of this machine; copy or mount it first, as: "
                f"gcloud storage cp '{pattern}' DIR (data sets of TFDS are read from gs:// by --data-dir)"
            )
        paths = [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]
        regular = [path for path in paths if path.is_file()]
        if not regular:
            hint = f"a folder; name its files, as {pattern}/*.txt" if paths else "no such file"
            raise DataError(f"{pattern}: {hint}")
        found.update(dict.fromkeys(regular))
    return list(found)


def identities(patterns: Sequence[str], data_dir: str = "") -> list[tuple[str, int, int]]:
    """(name, bytes, time or number of examples) of each source: while these are the same, so is the text."""
    found = []
    for source in sources(patterns):
        if isinstance(source, str):
            found.append(tfds.identity(source, data_dir))
        else:
            found.append((str(source), source.stat().st_size, source.stat().st_mtime_ns))
    return found


def documents(
    patterns: Sequence[str],
    *,
    wrapped: bool = False,
    text_column: str = "text",
    caps: Caps = Caps(),  # noqa: B008 (frozen)
    deduplicate: bool = False,
    data_dir: str = "",
    counts: Counter[str],
) -> Iterator[list[str]]:
    """Documents, as lists of lines, of text, WikiExtractor, JSON lines and Parquet files (formats.py) and of TFDS.

    In text files a blank line ends a document; `wrapped` says that their lines are broken to a width. Of equal
    documents `deduplicate` keeps the first; without it those that came before are counted, among LOOKED_FOR. Data sets
    of TFDS lie in `data_dir` (or TFDS's own). `counts` gathers what was mended, cut or dropped and why, and the bytes
    read.
    """
    seen = Seen() if deduplicate else Seen(LOOKED_FOR)
    for source in sources(patterns):
        if isinstance(source, str):
            found = tfds.documents(source, data_dir, text_column, caps, counts)
        else:
            found = formats.read(source, wrapped=wrapped, text_column=text_column, caps=caps, counts=counts)
        for document in found:
            if not document:
                counts[EMPTY] += 1
            elif seen.new(document):
                yield document
            elif deduplicate:
                counts[DUPLICATES] += 1
            else:
                counts[KEPT] += 1
                yield document


def sentences(document: Sequence[str]) -> list[str]:
    """The sentences of a document's lines; a line ends a sentence."""
    return [sentence for line in document for sentence in split_sentences(line)]
