"""Documents of one file, in the format that its name or content says: text, WikiExtractor, JSON lines, Parquet.

A document is a list of lines, none of them empty. Every reader is a stream: what is held is one document, cut at
`Caps.document`.
"""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path
from typing import Any

from bertjax.data.lines import BYTES, LONG, PACKED, Lines
from bertjax.errors import ConfigError, DataError
from bertjax.parsing import parse
from bertjax.storage import reading

CUT = "documents cut off at --max-document (the rest is a document of its own)"
DROPPED = "JSON lines over --max-document (dropped)"
EXAMPLE = '{"text": "..."}'
PARQUET_ROWS = 256  # texts held at once


@dataclass(frozen=True)
class Caps:
    """Longer lines and documents are cut: lines by bytes in text files, all else by characters."""

    line: int = 1 << 20
    document: int = 64 << 20


def read(path: Path, *, wrapped: bool, text_column: str, caps: Caps, counts: Counter[str]) -> Iterator[list[str]]:
    """All documents of a file; `wrapped` says that the lines of text files are broken to a width."""
    name = path.name.removesuffix(path.suffix) if path.suffix in PACKED else path.name
    if name.endswith(".parquet"):
        if name != path.name:
            raise DataError(f"{path}: Parquet compresses inside; unpack the file")
        yield from _parquet(path, text_column, caps, counts)
        return
    with path.open("rb") as raw:
        lines = Lines(path, raw, counts)
        if name.endswith((".jsonl", ".json")):
            yield from _json(lines, text_column, caps)
        else:
            yield from _text(lines, wrapped, caps)
        lines.finish()


def capped(lines: Iterable[str], caps: Caps, counts: Counter[str]) -> Iterator[list[str]]:
    """The lines of one document, stripped, without the empty ones, and cut to caps: one document, none or several."""
    kept: list[str] = []
    size = 0
    for line in map(str.strip, lines):
        if line:
            if kept and size + len(line) > caps.document:
                counts[CUT] += 1
                yield kept
                kept, size = [], 0
            kept.append(line)
            size += len(line)
    yield kept


def whole(text: str, caps: Caps, counts: Counter[str]) -> Iterator[list[str]]:
    """The lines of a text that is one document, as `capped` has them; long lines are cut here."""
    lines = text.lstrip("\ufeff").split("\n")
    return capped((piece for line in lines for piece in _pieces(line, caps.line, counts)), caps, counts)


def _pieces(line: str, most: int, counts: Counter[str]) -> Iterator[str]:
    if len(line) > most:
        counts[LONG] += 1
    start = 0
    while len(line) - start > most:
        stop = line.rfind(" ", start, start + most) + 1 or start + most
        yield line[start:stop]
        start = stop
    yield line[start:]


# -- text files and WikiExtractor ---------------------------------------------------------------------------------


def _text(lines: Lines, wrapped: bool, caps: Caps) -> Iterator[list[str]]:
    marked = _marked(lines, caps)
    first = next((line for line in marked if not line[0]), None)
    if first is None:
        return
    marked = chain([first], marked)
    if _title(first[1]) is not None:
        yield from _articles(lines, (text for _, text in marked), caps)
        return
    if first[1].startswith('{"') and first[1].rstrip().endswith("}"):
        raise lines.error(f"this looks like JSON lines; call the file {lines.path.name}.jsonl")
    for blank, group in groupby(marked, key=lambda line: line[0]):
        if not blank:
            for document in capped((text for _, text in group), caps, lines.counts):
                yield [" ".join(document)] if wrapped else document


def _marked(lines: Lines, caps: Caps) -> Iterator[tuple[bool, str]]:
    """(whether a blank line, text) of each line or piece of a long one."""
    goes_on = False
    for text, ends in lines.pieces(caps.line):
        yield ends and not goes_on and not text.strip(), text
        goes_on = not ends


def _title(text: str) -> str | None:
    """The title in the first line of an article; None for any other line. Quotes in titles are not escaped."""
    text = text.rstrip()
    if not (text.startswith('<doc id="') and text.endswith('">')):
        return None
    return html.unescape(text.partition(' title="')[2].removesuffix('">'))


def _articles(lines: Lines, texts: Iterator[str], caps: Caps) -> Iterator[list[str]]:
    """Articles of WikiExtractor, without their title lines: BERT took Wikipedia's passages, not its headers."""
    for text in texts:
        title = _title(text)
        if title is not None:
            yield from capped(_article(lines, texts, title), caps, lines.counts)
        elif text.strip():
            raise lines.error("text outside of <doc ...> and </doc>; is the file all of WikiExtractor's?")


def _article(lines: Lines, texts: Iterator[str], title: str) -> Iterator[str]:
    """The lines up to </doc>; WikiExtractor writes & < > as HTML does."""
    begin, heading = lines.number, True
    for text in texts:
        if text.startswith("</doc>"):
            return
        if _title(text) is not None:
            break
        line = html.unescape(text)
        if heading and line.strip():
            heading = False
            if line.strip() == title:
                continue
        yield line
    raise lines.error(f"the article that begins at line {begin} has no </doc>; is the file complete?")


# -- JSON lines and Parquet ---------------------------------------------------------------------------------------


def _json(lines: Lines, column: str, caps: Caps) -> Iterator[list[str]]:
    for line in lines.whole(caps.document):
        if line is None:
            lines.counts[DROPPED] += 1
            continue
        if not line.strip():
            continue
        try:
            record = parse(line)
        except ValueError as error:
            raise lines.error(f"not JSON ({error}); each line must be an object such as {EXAMPLE}") from None
        text = record.get(column) if isinstance(record, dict) else None
        if not isinstance(text, str):
            raise lines.error(
                f'no "{column}" that is a string; each line must be an object such as {EXAMPLE}; '
                "another name for the text: --text-column NAME"
            )
        yield from whole(text, caps, lines.counts)


def _parquet(path: Path, column: str, caps: Caps, counts: Counter[str]) -> Iterator[list[str]]:
    """The texts of a column; pages are read as they are needed, so that a row group need not fit in memory."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise ConfigError(f"{path}: reading Parquet needs pyarrow: pip install 'bertjax[parquet]'") from None
    size, told, row = path.stat().st_size, 0, 0
    try:
        with (
            reading(path),
            parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False, page_checksum_verification=True) as file,
        ):
            _check_column(path, file.schema_arrow, column)
            for batch in file.iter_batches(PARQUET_ROWS, columns=[column], use_threads=False):
                for text in batch.column(0):
                    row += 1
                    yield from whole(text.as_py() or "", caps, counts)
                now = size * row // file.metadata.num_rows
                counts[BYTES] += now - told
                told = now
    except (OSError, pyarrow.ArrowException, UnicodeDecodeError) as error:
        reason = str(error).split("\n")[0]
        raise DataError(f"{path}: cannot be read past row {row} ({reason}); is the file complete?") from None


def _check_column(path: Path, schema: Any, column: str) -> None:  # noqa: ANN401 (pyarrow has no types)
    kinds = {name: str(kind) for name, kind in zip(schema.names, schema.types, strict=True)}
    if kinds.get(column) not in ("string", "large_string", "string_view"):
        found = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
        raise DataError(f"{path}: no column {column!r} of strings; name it by --text-column; it has: {found}")
