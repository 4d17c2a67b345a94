r"""Text files to documents, each a list of sentences, in bounded memory.

Files are read as bytes and split on b"\n" alone: `str.splitlines` would also cut at U+2028 and NEL.
"""

from __future__ import annotations

import codecs
import glob
import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, cast

from bertjax.errors import DataError

MAX_LINE = 1 << 20  # bytes; a longer line of text comes in pieces
MAX_DOCUMENT = 64 << 20  # bytes of one document (for JSON lines, of one line): it is held in memory
INVALID_SHARE = 0.05  # of the lines; a file with more of them is not UTF-8 text

EXAMPLE = '{"text": "..."}'
INVALID = "lines with invalid UTF-8 (mended with U+FFFD)"
LONG = "lines over 1 MB (cut at white space)"
EMPTY = "empty documents (dropped)"
BYTES = "bytes read"  # of the files as they lie on disk; for progress bars


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


def documents(patterns: Sequence[str], *, wrapped: bool, counts: Counter[str]) -> Iterator[list[str]]:
    """Documents, as lists of sentences, of text files, .jsonl (or .json) files with "text", and either as .gz.

    In text files a blank line ends a document and a newline a sentence, unless `wrapped` says that lines are
    broken to a width. `counts` gathers what was mended or dropped and why, and the bytes read.
    """
    for path in files(patterns):
        name = path.name.removesuffix(".gz")
        with path.open("rb") as raw:
            reader = _Reader(path, raw, counts)
            if name.endswith((".jsonl", ".json")):
                found = _json_documents(reader)
            else:
                found = _text_documents(reader, wrapped=wrapped)
            for sentences in found:
                if sentences:
                    yield sentences
                else:
                    counts[EMPTY] += 1
            reader.finish()


class _Reader:
    """Lines of one file as text, with their numbers; counts and judges its invalid ones."""

    def __init__(self, path: Path, raw: BinaryIO, counts: Counter[str]) -> None:
        self.path, self.raw, self.counts = path, raw, counts
        self.stream = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if path.suffix == ".gz" else raw
        self.number = self.invalid = 0
        self._told = 0

    def error(self, message: str) -> DataError:
        """The message with file and line."""
        return DataError(f"{self.path}:{self.number}: {message}")

    def pieces(self, limit: int) -> Iterator[tuple[str, bool]]:
        """(text, whether the line ends there): lines over `limit` bytes come in several pieces cut at white space."""
        rest, starts = b"", True
        for piece in self._read(limit):
            self.number += starts
            line, ends = rest + piece, piece.endswith(b"\n") or len(piece) < limit
            cut = len(line) if ends else _cut(line)
            if starts and not ends:
                self.counts[LONG] += 1
            yield self._decode(line[:cut].rstrip(b"\r\n") if ends else line[:cut]), ends
            rest, starts = line[cut:], ends
        if rest:
            yield self._decode(rest), True

    def finish(self) -> None:
        """The verdict at the end of the file."""
        if self.invalid > INVALID_SHARE * self.number:
            raise self.error(
                f"{self.invalid} of {self.number} lines are not UTF-8; convert the file first, "
                f"as: iconv -f LATIN1 -t UTF-8 {self.path.name}"
            )

    def _read(self, limit: int) -> Iterator[bytes]:
        try:
            first = True
            while piece := self.stream.readline(limit):
                if first and piece.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                    self.number = 1
                    raise self.error(f"UTF-16, not UTF-8; convert it: iconv -f UTF-16 -t UTF-8 {self.path.name}")
                position = self.raw.tell()
                self.counts[BYTES] += position - self._told
                self._told = position
                yield piece.removeprefix(codecs.BOM_UTF8) if first else piece
                first = False
        except (EOFError, OSError, zlib.error) as error:
            raise self.error(f"cannot be read further ({error}); is the file complete?") from None

    def _decode(self, line: bytes) -> str:
        try:
            return line.decode()
        except UnicodeDecodeError:
            self.counts[INVALID] += 1
            self.invalid += 1
            if self.number >= 1000:
                self.finish()
            return line.decode(errors="replace")


def _cut(line: bytes) -> int:
    """Where to cut a line that goes on: after its last space, else before its last character."""
    space = line.rfind(b" ") + 1
    if space:
        return space
    start = len(line) - 1
    while start > len(line) - 4 and line[start] & 0xC0 == 0x80:  # continuation bytes of UTF-8
        start -= 1
    return start


def _text_documents(reader: _Reader, *, wrapped: bool) -> Iterator[list[str]]:
    lines: list[str] = []
    size = 0
    goes_on = False
    for text, ends in reader.pieces(MAX_LINE):
        text = text.strip()
        if text:
            lines.append(text)
            size += len(text)
            if size > MAX_DOCUMENT:
                raise reader.error(f"a document of over {MAX_DOCUMENT >> 20} MB; put blank lines between documents")
        elif ends and not goes_on and lines:
            yield _sentences(lines, wrapped)
            lines, size = [], 0
        goes_on = not ends
    if lines:
        yield _sentences(lines, wrapped)


def _sentences(lines: list[str], wrapped: bool) -> list[str]:
    paragraphs = [" ".join(lines)] if wrapped else lines
    return [sentence for paragraph in paragraphs for sentence in split_sentences(paragraph)]


def _json_documents(reader: _Reader) -> Iterator[list[str]]:
    for line, ends in reader.pieces(MAX_DOCUMENT):
        if not ends:
            raise reader.error(f"a line of over {MAX_DOCUMENT >> 20} MB; one document a line, or plain text files")
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise reader.error(f"not JSON ({error}); each line must be an object such as {EXAMPLE}") from None
        if not isinstance(record, dict) or not isinstance(record.get("text"), str):
            raise reader.error(f'no "text" that is a string; each line must be an object such as {EXAMPLE}')
        yield _sentences(record["text"].lstrip("\ufeff").split("\n"), wrapped=False)


_CLOSING = "\"'”’»)\\]」』）"
# Each run of full stops is tried once, from its start, and never given back: linear in the text.
_END = re.compile(rf"(?<![.!?…。！？])[.!?…。！？]++[{_CLOSING}]*+(\s*+)")
_OPENING = "\"'“‘«([「『（"
_ABBREVIATION = re.compile(
    "mr|mrs|ms|messrs|dr|st|prof|rev|hon|gen|col|capt|lt|sgt|maj|gov|sen|rep|pres|esq|jr|sr|mme|mlle|mt|ft|vs|cf|vol|"
    "pp|ch|ed|fig|approx|dept|inc|ltd|co|corp|bros|jan|feb|mar|apr|jun|jul|aug|sept|sep|oct|nov|dec|e\\.g|i\\.e",
    re.IGNORECASE,
)
_INITIALS = re.compile(r"(?:[A-Za-z]\.)*[A-HJ-Za-z]|(?:[A-Za-z]\.)+I")  # "I." alone ends "So do I."


def split_sentences(text: str) -> list[str]:
    """Sentences of prose, in linear time: English with its abbreviations and quotes, Korean, and CJK full stops."""
    sentences: list[str] = []
    start = 0
    for match in _END.finditer(text):
        if match.end() < len(text) and _ends_sentence(text, match, start):
            sentences.append(text[start : match.end()].strip())
            start = match.end()
    sentences.append(text[start:].strip())
    return [sentence for sentence in sentences if sentence]


def _ends_sentence(text: str, match: re.Match[str], start: int) -> bool:
    mark = match.group()
    if mark[0] in "。！？":
        return True
    following = text[match.end()]
    if not match.group(1) or following.islower():
        return False
    if mark.rstrip() != ".":
        return True
    words = text[max(start, match.start() - 20) : match.start()].split()
    word = words[-1].lstrip(_OPENING) if words else ""
    if word.isdigit() and following.isdigit():  # a Korean date: 1990. 3. 5.
        return False
    return not _ABBREVIATION.fullmatch(word) and not _INITIALS.fullmatch(word)
