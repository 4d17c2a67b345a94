"""What a checkpoint consists of: size and checksum of every file, written before it counts as finished.

XXH3 of 128 bits finds what disks and copies do to files in a twentieth of the time that a restore takes; SHA-256 takes
almost as long as the restore (bench/integrity.py). A bucket keeps the CRC32C of every object itself: that is listed of
what is written there, so that nothing is read again to be listed or compared. It is no protection from who changes
files on purpose.
"""

import json
import os
from base64 import b64encode
from collections.abc import Iterator, Set
from contextlib import suppress
from pathlib import Path
from typing import Any

import google_crc32c
import xxhash

from bertjax.errors import DataError, UserError
from bertjax.parsing import parse
from bertjax.paths import DONE, remote
from bertjax.storage import reading

NAME = "manifest.json"
VERSION = 1  # with checksums of XXH3
OF_BUCKETS = 2  # with those that a bucket keeps
NOTES = {"_CHECKPOINT_METADATA", DONE}  # Orbax adds them after the manifest; nothing is read from them
BLOCK = 1 << 18  # bytes read at once: they stay in the cache of a core


def write(folder: Path) -> None:
    """Lists all that is in a folder; the list is on the disk when this returns: what is lost of the rest is found."""
    if remote(folder):
        text = _text(OF_BUCKETS, {name: [*about] for name, about in _objects(folder).items()})
        (folder / NAME).write_text(text, "utf-8")
        return
    text = _text(VERSION, {name: [*_checksum(folder / name, VERSION)] for name in _names(folder)})
    with (folder / NAME).open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _text(version: int, files: dict[str, list[Any]]) -> str:
    return json.dumps({"version": version, "checksum": _of(files), "files": files}, indent=0) + "\n"


def parts(folder: Path) -> set[str]:
    """Names of the folders inside: those that are there and those that should be."""
    if remote(folder):
        there = {name.partition("/")[0] for name in _objects(folder) if "/" in name}
    else:
        there = set(next(os.walk(folder, onerror=_not_listed), ("", [], []))[1])  # none where the folder itself is gone
    try:
        return there | {name.partition("/")[0] for name in _read(folder)[1]}
    except DataError:
        return there


def faults(folder: Path, wanted: Set[str]) -> list[str]:
    """What is not as it was written in the `wanted` parts, and beside the parts; a line for each file.

    Raises where one is there and cannot be read: that is a fault of the disk or of rights, and no damage.
    """
    found = []
    for verdict in verdicts(folder, wanted):
        if isinstance(verdict, UserError):
            raise verdict
        found.append(verdict)
    return found


def verdicts(folder: Path, wanted: Set[str]) -> Iterator[str | UserError]:
    """The same as they are found, and the error of each file that cannot be read."""
    try:
        version, listed = _read(folder)
    except UserError as error:
        yield str(error) if isinstance(error, DataError) else error
        return
    there = _objects(folder, wanted) if remote(folder) else dict.fromkeys(_names(folder, wanted), (0, ""))
    for name in sorted(there):
        about = folder / name, name, listed.get(name), version
        try:
            found = _fault_of_object(*about, there[name]) if remote(folder) else _fault(*about)
        except UserError as error:
            yield error
            continue
        if found:
            yield found
    missing = {name for name in listed if name.partition("/")[0] in wanted} - there.keys()
    yield from (f"{name}: missing" for name in sorted(missing))


def _fault(path: Path, name: str, known: Any, version: int) -> str:  # noqa: ANN401 (what a file says)
    if known is None:
        return f"{name}: not of this checkpoint"
    try:
        size, checksum = known
        with reading(path):
            if path.stat().st_size != size:
                return f"{name}: {path.stat().st_size:,} bytes, not {size:,}"
            return "" if _checksum(path, version) == (size, checksum) else f"{name}: other bytes than were written"
    except OSError as error:
        return f"{name}: cannot be read ({error.strerror})"


def _fault_of_object(path: Path, name: str, known: Any, version: int, about: tuple[int, str]) -> str:  # noqa: ANN401 (what a file says)
    """The same in a bucket, by what this knows of it; of a checkpoint that was written elsewhere by its bytes."""
    if known is None:
        return f"{name}: not of this checkpoint"
    size, checksum = known
    if about[0] != size:
        return f"{name}: {about[0]:,} bytes, not {size:,}"
    found = about[1] if version == OF_BUCKETS else xxhash.xxh3_128_hexdigest(path.read_bytes())
    return "" if found == checksum else f"{name}: other bytes than were written"


def _objects(folder: Path, wanted: Set[str] | None = None) -> dict[str, tuple[int, str]]:
    """Size and checksum of every object that a manifest in a bucket lists, of the `wanted` parts or of all."""
    assert remote(folder)
    from bertjax.bucket import listing

    return {
        name: (about.size, about.crc32c)
        for name, about in listing(folder).items()
        if (name not in NOTES | {NAME} if "/" not in name else wanted is None or name.partition("/")[0] in wanted)
    }


def _names(folder: Path, wanted: Set[str] | None = None) -> Iterator[str]:
    """Every file that a manifest lists, of the `wanted` parts or of all."""
    for place, folders, files in os.walk(folder, onerror=_not_listed):
        top = Path(place) == folder
        if top and wanted is not None:
            folders[:] = [name for name in folders if name in wanted]
        files = [name for name in files if not (top and name in NOTES | {NAME})]
        yield from ((Path(place) / name).relative_to(folder).as_posix() for name in files)


def _not_listed(error: OSError) -> None:
    """What is in a folder that cannot be read is not missing."""
    with suppress(OSError), reading(Path(error.filename)):
        raise error


def _checksum(path: Path, version: int) -> tuple[int, str]:
    """Size and checksum of a file, of the kind that a version of the manifest has."""
    total, hasher, block = 0, xxhash.xxh3_128() if version == VERSION else google_crc32c.Checksum(), bytearray(BLOCK)
    view = memoryview(block)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(block):
            hasher.update(view[:count] if version == VERSION else bytes(view[:count]))
            total += count
    return total, hasher.hexdigest() if version == VERSION else b64encode(hasher.digest()).decode()


def _read(folder: Path) -> tuple[int, dict[str, Any]]:
    """The version of a manifest, and the files it lists."""
    try:
        with reading(folder / NAME):
            data = (folder / NAME).read_bytes()
    except FileNotFoundError:
        raise DataError(f"{NAME}: missing") from None
    except OSError as error:
        if remote(folder):  # a bucket that is out of reach has damaged nothing
            raise
        raise DataError(f"{NAME}: cannot be read ({error.strerror})") from None
    try:
        found = parse(data, strict=True)
        files: dict[str, Any] = found["files"]
        if not all([type(part) for part in about] == [int, str] for about in files.values()):
            raise ValueError("no size and checksum of each file")
        if found["checksum"] != _of(files):
            raise ValueError("its own checksum is another")
        if found["version"] not in (VERSION, OF_BUCKETS):
            raise ValueError(f"version {found['version']} is of a later bertjax")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{NAME}: damaged ({error})") from None
    return found["version"], files


def _of(files: dict[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(files, sort_keys=True).encode())
