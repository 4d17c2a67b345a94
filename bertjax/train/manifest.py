"""What a checkpoint consists of: size and checksum of every file, written before it counts as finished.

XXH3 of 128 bits finds what disks and copies do to files in a twentieth of the time that a restore takes; SHA-256 takes
almost as long as the restore (bench/integrity.py). It is no protection from who changes files on purpose.
"""

import json
import os
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any

import xxhash

from bertjax.errors import DataError
from bertjax.parsing import parse

NAME = "manifest.json"
VERSION = 1
NOTES = {"_CHECKPOINT_METADATA", "commit_success.txt"}  # Orbax adds them after the manifest; nothing is read from them
BLOCK = 1 << 18  # bytes read at once: they stay in the cache of a core


def write(folder: Path) -> None:
    """Lists all that is in a folder; the list is on the disk when this returns: what is lost of the rest is found."""
    files = {name: list(_checksum(folder / name)) for name in _names(folder)}
    text = json.dumps({"version": VERSION, "checksum": _of(files), "files": files}, indent=0) + "\n"
    with (folder / NAME).open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def parts(folder: Path) -> set[str]:
    """Names of the folders inside: those that are there and those that should be."""
    there = {entry.name for entry in folder.iterdir() if entry.is_dir()}
    try:
        return there | {name.partition("/")[0] for name in _read(folder)}
    except DataError:
        return there


def faults(folder: Path, wanted: Set[str]) -> list[str]:
    """What is not as it was written in the `wanted` parts, and beside the parts; a line for each file."""
    try:
        listed = _read(folder)
    except DataError as error:
        return [str(error)]
    found = set(_names(folder, wanted))
    wrong = [_fault(folder / name, name, listed.get(name)) for name in sorted(found)]
    missing = {name for name in listed if name.partition("/")[0] in wanted} - found
    return [line for line in wrong if line] + [f"{name}: missing" for name in sorted(missing)]


def _fault(path: Path, name: str, known: Any) -> str:  # noqa: ANN401 (what a file says)
    if known is None:
        return f"{name}: not of this checkpoint"
    try:
        size, checksum = known
        if path.stat().st_size != size:
            return f"{name}: {path.stat().st_size:,} bytes, not {size:,}"
        return "" if _checksum(path) == (size, checksum) else f"{name}: other bytes than were written"
    except OSError as error:
        return f"{name}: cannot be read ({error.strerror})"


def _names(folder: Path, wanted: Set[str] | None = None) -> Iterator[str]:
    """Every file that a manifest lists, of the `wanted` parts or of all."""
    for place, folders, files in os.walk(folder):
        top = Path(place) == folder
        if top and wanted is not None:
            folders[:] = [name for name in folders if name in wanted]
        files = [name for name in files if not (top and name in NOTES | {NAME})]
        yield from ((Path(place) / name).relative_to(folder).as_posix() for name in files)


def _checksum(path: Path) -> tuple[int, str]:
    """Size and checksum of a file."""
    total, hasher, block = 0, xxhash.xxh3_128(), bytearray(BLOCK)
    view = memoryview(block)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(block):
            hasher.update(view[:count])
            total += count
    return total, hasher.hexdigest()


def _read(folder: Path) -> dict[str, Any]:
    try:
        found = parse((folder / NAME).read_bytes(), strict=True)
        files: dict[str, Any] = found["files"]
        if not all([type(part) for part in about] == [int, str] for about in files.values()):
            raise ValueError("no size and checksum of each file")
        if found["checksum"] != _of(files):
            raise ValueError("its own checksum is another")
        if found["version"] != VERSION:
            raise ValueError(f"version {found['version']} is of a later bertjax")
    except FileNotFoundError:
        raise DataError(f"{NAME}: missing") from None
    except OSError as error:
        raise DataError(f"{NAME}: cannot be read ({error.strerror})") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{NAME}: damaged ({error})") from None
    return files


def _of(files: dict[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(files, sort_keys=True).encode())
