"""Disks and buckets that are full, read-only or out of reach: known by the errors they cause, told with the cure."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bertjax.errors import AccessError, AwayError, MemoryShort, StorageError, UserError, lacked_memory, redacted

NAMED: dict[str, bool] = {}  # the paths that the user has named, and whether the command writes there
MISPLACED = (IsADirectoryError, FileExistsError, FileNotFoundError, NotADirectoryError, PermissionError)
LOST = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)  # a name that stands for no file
ROOM = "make room there"
SHARE = "mount the share again"
SHARES = (errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENOTCONN)  # that is out of reach
CURES = {
    errno.ENOSPC: ROOM,
    errno.EDQUOT: ROOM,
    errno.EFBIG: "raise the limit for files (ulimit -f)",
    errno.EROFS: "mount it for writing, or give another folder",
    errno.EIO: "check the disk (dmesg), move away what stays unreadable, or give another folder",
    errno.ESTALE: SHARE,
}
# What is wrong with a bucket, by the status that the store answers with or would, as numbers that no system has.
LOGIN, FORBIDDEN, AWAY = -401, -403, -503
BUCKETS = {
    LOGIN: (
        "the bucket asks who you are",
        "log in (gcloud auth application-default login), or give the machine a service account",
    ),
    FORBIDDEN: (
        "the bucket forbids it",
        "give your account the roles roles/storage.objectUser and roles/storage.legacyBucketReader there "
        "(gcloud storage buckets add-iam-policy-binding)",
    ),
    AWAY: ("the bucket does not answer", "check the network"),
}
_WORDS = {  # of tensorstore, which has no kinds of errors
    LOGIN: "UNAUTHENTICATED",
    FORBIDDEN: "PERMISSION_DENIED",
    AWAY: r"UNAVAILABLE|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED|\d+ retry attempts failed",
}
_CLIENTS = ("aiohttp", "requests", "gcsfs", "google.auth", "google.api_core")  # libraries that talk to buckets


def fault_of(error: BaseException | None) -> int:
    """The errno of a disk that does not take what is written, or what is wrong with a bucket; else 0.

    From an error or what caused it.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in CURES:
            return error.errno
        if isinstance(error, OSError) and error.errno in SHARES and error.filename:  # else of a connection
            return error.errno
        if isinstance(error, OSError) and re.search(r"\d+ requested and \d+ written", str(error)):  # numpy's
            return errno.ENOSPC
        if status := _status(error):
            return status
        if not isinstance(error, OSError):  # libraries in C++ put the system's words into errors of their own
            number = next((number for number in CURES if os.strerror(number) in str(error)), 0)
            if number:
                return number
        error = error.__cause__ or error.__context__
    return 0


def _status(error: BaseException) -> int:
    """What is wrong with a bucket, by one of the errors of the libraries that read and write there; else 0."""
    text = str(error)
    library = type(error).__module__
    if isinstance(error, PermissionError) or not library.startswith(("builtins", *_CLIENTS)):
        return 0
    if type(error) is OSError and text.startswith("Forbidden: "):  # gcsfs
        return FORBIDDEN
    if library.startswith(_CLIENTS):
        code = int(getattr(error, "code", None) or 0)
        if code in (401, 403):
            return LOGIN if code == 401 else FORBIDDEN
        return LOGIN if library.startswith("google.auth") and "Transport" not in type(error).__name__ else AWAY
    if not re.search("gs://|/storage/v1/|gcs", text):
        return 0
    return next((number for number, words in _WORDS.items() if re.search(words, text)), 0)


def described(where: str | Path, number: int) -> str:
    """What to say of a disk, and what to do."""
    words, cure = BUCKETS[number] if number in BUCKETS else (os.strerror(number), _cure(number))
    return f"{where}: {words}; {cure}"


def _cure(number: int) -> str:
    return CURES.get(number, SHARE if number in SHARES else "check the disk (dmesg) or the share that it is on")


def storage_error(where: str | Path, number: int) -> StorageError:
    """What ends a command."""
    error = _kind(number)(f"{described(where, number)}, then give the same command again")
    error.where = where
    return error


def given_up(why: str, where: str | Path, number: int) -> StorageError:
    """What ends a command that has tried for long."""
    return _kind(number)(f"{why}: {storage_error(where, number)}")


def known_error(error: Exception) -> UserError | None:
    """What ends a command in the place of an error of a path, of a disk, of a bucket or of a device's memory; None: of
    others.
    """
    if isinstance(error, MISPLACED) and _is_theirs(error):
        return misplaced(error)
    if said := lacked_memory(error):
        return MemoryShort(f"{said}: give smaller batches, or other devices")
    number = fault_of(error)
    if not number:
        return None
    return storage_error(getattr(error, "filename", None) or ("the bucket" if number < 0 else "the disk"), number)


def misplaced(error: OSError) -> UserError:
    """What ends a command whose path is not as it should be."""
    return UserError(redacted(f"{error.filename}: {error.strerror}; give another path"))


def _is_theirs(error: OSError) -> bool:
    """Whether a path that the user has named, one in it or on the way to it is not as it should be.

    But what vanishes from a folder that is written is our fault, or passes.
    """
    if not isinstance(error.filename, str | os.PathLike):
        return False
    place, lost = _absolute(error.filename), isinstance(error, FileExistsError | FileNotFoundError)
    paths = {_absolute(path): written for path, written in NAMED.items() if path}
    if place in paths or any(place in path.parents for path in paths):
        return True
    around = next((folder for folder in place.parents if folder in paths), None)
    return around is not None and not (lost and paths[around])


def _absolute(path: str | os.PathLike[str]) -> Path:
    return Path(os.path.abspath(path))


def _kind(number: int) -> type[StorageError]:
    return AwayError if number == AWAY else StorageError


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """An error of the disk inside is told with the path, which the error does not always have."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not fault_of(error):
            raise
        raise storage_error(path, fault_of(error)) from error


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """A file or folder of this machine that is there and cannot be read is told as a fault of the disk or of rights.

    It is no damage. Where there is none, or one of another kind, and in a bucket, the error stays as it is.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or error.errno in LOST or not isinstance(path, Path):
            raise
        raise _unread(path, error, error.errno) from error


def _unread(path: Path, error: OSError, number: int) -> UserError:
    path = Path(error.filename) if isinstance(error.filename, str) else path
    if not isinstance(error, PermissionError):
        return storage_error(path, number)
    try:
        owner = path.owner()
    except KeyError:  # a user without a name
        owner = f"user {path.stat().st_uid}"
    except OSError:
        owner = "somebody else"
    return AccessError(
        f"{path}: {error.strerror}: it belongs to {owner}, and this is user {os.geteuid()}; let this user read it "
        "(chmod, setfacl), or give the command as the one who may"
    )


def free_bytes(folder: Path) -> int:
    """Room where a folder is, or will be."""
    while not folder.exists():
        folder = folder.absolute().parent
    return shutil.disk_usage(folder).free
