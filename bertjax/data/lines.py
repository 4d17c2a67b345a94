r"""Lines of a file, plain or compressed, as text: in bounded memory, with their numbers, and never half a file.

Files are read as bytes and split on b"\n" alone: `str.splitlines` would also cut at U+2028 and NEL.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from bertjax.errors import DataError
from bertjax.storage import reading

INVALID_SHARE = 0.05  # of the lines; a file with more of them is not UTF-8 text
INVALID = "lines with invalid UTF-8 (mended with U+FFFD)"
LONG = "lines over --max-line (cut at white space)"
BYTES = "bytes read"  # of the files as they lie on disk; for progress bars
MOST, GROWTH = 256 << 20, 500  # a file that unpacks to more bytes than both, and times its size, is no text
ZSTD_INPUT = 1 << 10  # bytes taken at once; each may become 32 MB, as a block of 4 bytes may stand for 128 KB


def _zstd(raw: BinaryIO) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(_Zstd(raw), 1 << 20))


PACKED: dict[str, Callable[[BinaryIO], BinaryIO]] = {
    ".gz": lambda raw: cast(BinaryIO, gzip.GzipFile(fileobj=raw)),
    ".bz2": lambda raw: cast(BinaryIO, bz2.BZ2File(raw)),
    ".zst": _zstd,
}


class _Zstd(io.RawIOBase):
    """Decompressed bytes of any number of frames; a frame that ends early is an EOFError (zstandard says nothing)."""

    def __init__(self, raw: BinaryIO) -> None:
        import zstandard

        self.raw, self.damage = raw, zstandard.ZstdError
        self._make = zstandard.ZstdDecompressor().decompressobj
        self._frame = self._make()
        self._begun = False  # whether the frame has been given any bytes
        self._out = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._out:
            given = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame, self._begun = self._make(), False
            given = given or self.raw.read(ZSTD_INPUT)
            if not given:
                if self._begun:
                    raise EOFError("the compressed data end before the end of a frame")
                return 0
            try:
                self._out, self._begun = memoryview(self._frame.decompress(given)), True
            except self.damage as error:
                raise OSError(str(error)) from None
        size = min(len(buffer), len(self._out))
        buffer[:size], self._out = self._out[:size], self._out[size:]
        return size


class Lines:
    """Lines of one file with their numbers; counts and judges those that are not UTF-8."""

    def __init__(self, path: Path, raw: BinaryIO, counts: Counter[str]) -> None:
        self.path, self.raw, self.counts = path, raw, counts
        self.stream = PACKED.get(path.suffix, lambda raw: raw)(raw)
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

    def whole(self, limit: int) -> Iterator[str | None]:
        """Each line; None for one of over `limit` bytes, which is skipped without being held."""
        skipping = False
        for piece in self._read(limit + 1):
            self.number += not skipping
            long = len(piece) > limit and not piece.endswith(b"\n")
            if not skipping:
                yield None if long else self._decode(piece)
            skipping = long

    def finish(self) -> None:
        """The verdict at the end of the file."""
        if self.invalid > INVALID_SHARE * self.number:
            raise self.error(
                f"{self.invalid} of {self.number} lines are not UTF-8; convert the file first, "
                f"as: iconv -f LATIN1 -t UTF-8 {self.path.name}"
            )

    def _read(self, limit: int) -> Iterator[bytes]:
        try:
            first, unpacked = True, 0
            with reading(self.path):
                while piece := self.stream.readline(limit):
                    if first and piece.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                        self.number = 1
                        raise self.error(f"UTF-16, not UTF-8; convert it: iconv -f UTF-16 -t UTF-8 {self.path.name}")
                    position = self.raw.tell()
                    self.counts[BYTES] += position - self._told
                    self._told = position
                    unpacked += len(piece)
                    if unpacked > max(MOST, GROWTH * position):
                        self.number = max(1, self.number)
                        raise self.error(f"unpacks to over {GROWTH} times its size, as no text does; leave it out")
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
