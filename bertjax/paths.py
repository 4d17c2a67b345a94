"""Where a run or prepared data lie: on this machine, or in a bucket (gs://). What differs between the two is here."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard, cast

from bertjax.errors import ConfigError, StorageError
from bertjax.storage import described, fault_of, writing

if TYPE_CHECKING:
    from bertjax.bucket import BucketPath

TEMPORARY = ".tmp"  # ends the name of a file that is being written
STEP = "0|[1-9][0-9]*"  # the name of a checkpoint
DONE = "commit_success.txt"  # in a bucket, which cannot rename: Orbax's last object of a step
OFTEN = 30.0  # seconds between two writes of a file in a bucket that grows


def as_path(text: str | Path) -> Path:
    """The path an option names: of this machine, or for gs:// what behaves as such."""
    if isinstance(text, str) and (found := re.match("gs://", text, re.IGNORECASE)):
        from bertjax.bucket import BucketPath

        return cast(Path, BucketPath(f"gs://{text[found.end() :]}"))
    return cast(Path, text) if remote(text) else Path(text)


def check_name(path: str) -> None:
    """Raises for a name that is not UTF-8: its bytes become halves of pairs of surrogates, which no file can hold."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{path}: not UTF-8, as names must be that are written to files; give another name") from None


def remote(path: str | Path) -> TypeGuard[BucketPath]:
    """Whether a path is in a bucket."""
    return not isinstance(path, (str, Path))


def write_text(path: Path, text: str) -> None:
    """Writes a file in UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all."""
    with whole(path) as file:
        file.write_bytes(data)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write a file of this machine that takes the place of another once it is whole; its folder is made.

    What is no plain file, as /dev/stdout, is written where it is; so is what is in a bucket, by its `write_bytes`.
    """
    with writing(path):
        if remote(path) or (path.exists() and not path.is_file()):
            yield path
            return
        path = path.resolve() if path.is_symlink() else path
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}{TEMPORARY}")
        try:
            yield temporary
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise


def size(path: Path) -> int | None:
    """Bytes of a file; None where there is none."""
    if remote(path):
        from bertjax.bucket import stat

        found = stat(path)
        return found.size if found else None
    return path.stat().st_size if path.is_file() else None


def sizes(folder: Path) -> dict[str, int]:
    """Every file below a folder and its bytes."""
    if remote(folder):
        from bertjax.bucket import listing

        return {name: about.size for name, about in listing(folder).items()}
    files = (file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file.stat().st_size for file in files}


def steps_in(folder: Path) -> list[int]:
    """The finished checkpoints in a folder of such, whole or not."""
    if remote(folder):
        names = finished(sizes(folder))
    else:
        names = [entry.name for entry in folder.iterdir() if entry.is_dir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if re.fullmatch(STEP, name))


def finished(objects: Iterable[str]) -> list[str]:
    """The finished checkpoints among the objects of a bucket: a step has its name from the start there."""
    return [name.removesuffix(f"/{DONE}") for name in objects if re.search(rf"(^|/)({STEP})/{DONE}$", name)]


def remove(folder: Path) -> None:
    """Deletes a folder and all that is in it, as far as that can be done."""
    if remote(folder):
        folder.rmtree(missing_ok=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)


def send(folder: Path, to: Path) -> None:
    """Writes the files of a folder of this machine to another one."""
    for name in sizes(folder):
        (to / name).write_bytes((folder / name).read_bytes())


@contextmanager
def fetched(path: str | Path) -> Iterator[Path]:
    """A file, or a folder of few and small ones, on this machine: itself, or a copy for as long as it is open."""
    path = as_path(path)
    if not remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="bertjax-") as folder:
        copy = Path(folder) / path.name
        with writing(path):
            try:
                copy.write_bytes(path.read_bytes())
            except FileNotFoundError:
                found = sizes(path)
                if not found:
                    raise
                for name in found:
                    (copy / name).parent.mkdir(parents=True, exist_ok=True)
                    (copy / name).write_bytes((path / name).read_bytes())
        yield copy


class Growing:
    """A text file that lines are added to; one in a bucket is written anew, at most every OFTEN seconds.

    Lines that a disk or a bucket does not take are kept, and written with the next one or by `flush`.
    """

    def __init__(self, path: Path, lines: list[str]) -> None:
        """Begins it with some lines, in the place of what is there."""
        self._path = path
        self._lines = list(lines) if remote(path) else []  # on a disk those that are not in the file yet
        self._written = time.monotonic()
        self._due = False
        self._whole: int | None = None  # bytes of the file before lines that a disk has refused, perhaps in part
        self.refused = ""  # why the last lines are not there yet
        write_text(path, "".join(line + "\n" for line in lines))

    def add(self, line: str) -> None:
        """One line more, which is there at the next `flush` at the latest."""
        self._lines.append(line)
        self._due = True
        if not remote(self._path) or time.monotonic() > self._written + OFTEN:
            with suppress(StorageError):
                self.flush()

    def flush(self) -> None:
        """All lines are in the file when this returns; raises StorageError where they cannot be, and keeps them."""
        if not self._due:
            return
        text = "".join(line + "\n" for line in self._lines)
        try:
            if remote(self._path):
                write_text(self._path, text)
            else:
                self._append(text.encode())
                self._lines.clear()
            self._due, self.refused = False, ""
        except StorageError as error:
            self.refused = described(self._path, fault_of(error))
            raise
        finally:
            self._written = time.monotonic()  # after what it took: a bucket that is away holds the run up long enough

    def _append(self, data: bytes) -> None:
        """Adds to a file of this machine; what a try before this one has left of the same lines is cut off first."""
        with writing(self._path):
            with self._path.open("ab") as file:
                there = os.fstat(file.fileno()).st_size
                if self._whole is not None and self._whole < there:
                    file.truncate(self._whole)
                    there = self._whole
                self._whole = there
                file.write(data)
            self._whole = None
