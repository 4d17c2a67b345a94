"""Disks that are full, read-only or broken: known by the errors they cause, told with the cure."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bertjax.errors import StorageError

ROOM = "make room there"
CURES = {
    errno.ENOSPC: ROOM,
    errno.EDQUOT: ROOM,
    errno.EFBIG: "raise the limit for files (ulimit -f)",
    errno.EROFS: "mount it for writing, or give another folder",
    errno.EIO: "look after the disk (dmesg), or give another folder",
    errno.ESTALE: "mount the share again",
}


def fault_of(error: BaseException | None) -> int:
    """The errno of a disk that does not take what is written, from an error or what caused it; else 0."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in CURES:
            return error.errno
        if isinstance(error, OSError) and re.search(r"\d+ requested and \d+ written", str(error)):  # numpy's
            return errno.ENOSPC
        if not isinstance(error, OSError):  # libraries in C++ put the system's words into errors of their own
            number = next((number for number in CURES if os.strerror(number) in str(error)), 0)
            if number:
                return number
        error = error.__cause__ or error.__context__
    return 0


def what(where: str | Path, number: int) -> str:
    """What to say of a disk, and what to do."""
    return f"{where}: {os.strerror(number)}; {CURES[number]}"


def told(where: str | Path, number: int) -> StorageError:
    """What ends a command."""
    return StorageError(f"{what(where, number)}, then give the same command again")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """An error of the disk inside is told with the path, which the error does not always have."""
    try:
        yield
    except OSError as error:
        if not fault_of(error):
            raise
        raise told(path, fault_of(error)) from error


def free_bytes(folder: Path) -> int:
    """Room where a folder is, or will be."""
    while not folder.exists():
        folder = folder.absolute().parent
    return shutil.disk_usage(folder).free
