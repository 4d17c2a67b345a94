"""One writer for a run: RUN/run.lock is held as long as a command writes there, and says who holds it."""

import contextlib
import errno
import fcntl
import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path

from bertjax.errors import ConfigError
from bertjax.parsing import parse
from bertjax.storage import writing

NAME = "run.lock"
SIGN = 10.0  # seconds between two signs of life of a holder
PASSING = 1.0  # seconds within which who looks at a lock has let it go, and who has taken it has signed
SILENT = 60.0  # seconds without one after which a holder on another machine is gone
END_IT = "end that, or give another --out. Nothing was changed"
MOST = 4096  # bytes read of a lock


class _Lock(Enum):
    """What a file system says of a lock."""

    OURS = "ours"
    THEIRS = "another process has it"
    UNKNOWN = "it knows no locks: who holds one is known by what it has written, and its signs of life"


_held: set[Path] = set()  # by this process, of which the system does not keep itself apart


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keeps all others from writing in a folder, which is made; raises ConfigError, naming the holder, where one does.

    The system frees the lock of a process that dies. A holder on another machine, which a file system may not tell
    of, counts as gone when it has given no sign of life for SILENT seconds: so long is waited. Where a file system
    knows no locks a holder on this machine is one as long as there is a process of its number.
    """
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    path = (folder / NAME).resolve()
    if path in _held:
        raise ConfigError(f"{folder} is being written by this process already")
    file = _acquire(path, folder)
    _held.add(path)
    done = threading.Event()
    try:
        try:
            with writing(path):
                os.pwrite(file, json.dumps(record(machine())).encode(), 0)
                os.fsync(file)
            threading.Thread(target=_signs, args=(path, done), daemon=True).start()
            yield
        finally:
            done.set()
            path.unlink(missing_ok=True)
            if made:
                with contextlib.suppress(OSError):  # something was written in it
                    folder.rmdir()
    finally:
        _held.discard(path)
        os.close(file)  # and with it the lock


def _acquire(path: Path, folder: Path) -> int:
    """The lock's open file, once it is ours."""
    end = time.monotonic() + PASSING
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            lock = _take(file, fcntl.LOCK_EX)
            if lock is not _Lock.THEIRS:
                if lock is _Lock.UNKNOWN and _lives_here(found := _read(file)):
                    raise busy(folder, found)
                _wait_for_others(file, folder)
                if _lies_at(file, path):
                    return file
            elif not _passes(found := _read(file)) or time.monotonic() > end:
                raise busy(folder, found)
            else:
                time.sleep(0.01)
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # its holder has left, and taken it away; or somebody looks at it


def _passes(holder: dict[str, object]) -> bool:
    """Whether a lock that is taken may be free soon: it names nobody, or a process of this machine that is no more."""
    pid = process_on(machine(), holder)
    return not holder or (pid > 0 and not lives(pid))


def _lives_here(holder: dict[str, object]) -> bool:
    """Whether it names another process of this machine, and there is one."""
    pid = process_on(machine(), holder)
    return pid > 0 and pid != os.getpid() and lives(pid)


def process_on(machine: str, holder: dict[str, object]) -> int:
    """The process of a machine that holds a lock by what this says; 0 where it names none."""
    pid = holder.get("pid")
    return pid if holder.get("machine") == machine and type(pid) is int and pid > 0 else 0


def _lies_at(file: int, path: Path) -> bool:
    """Whether an open file still has its name."""
    try:
        return path.stat().st_ino == os.fstat(file).st_ino
    except FileNotFoundError:
        return False


def holder(folder: Path) -> str:
    """Who writes in a folder, or nothing."""
    path = (folder / NAME).resolve()
    if path in _held:
        return "this process"
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return ""
    try:
        lock = _take(file, fcntl.LOCK_SH)  # for a moment; others may look as well
        found = _read(file)
        free = lock is _Lock.OURS or (lock is _Lock.UNKNOWN and not _lives_here(found))
        silent = time.time() - os.fstat(file).st_mtime > SILENT
        return "" if free and (not found or found.get("machine") == machine() or silent) else named(found)
    finally:
        os.close(file)


def _take(file: int, kind: int) -> _Lock:
    """Locks a file, where it can."""
    try:
        fcntl.lockf(file, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return _Lock.THEIRS
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        return _Lock.UNKNOWN
    return _Lock.OURS


def _wait_for_others(file: int, folder: Path) -> None:
    """Returns when no holder on another machine is left; clears the lock."""
    holder, began, sign = _read(file), time.monotonic(), os.fstat(file).st_mtime_ns
    if holder and holder.get("machine") != machine():
        tell_of(folder, holder)
        while time.monotonic() < began + SILENT:
            time.sleep(SIGN / 10)
            if os.fstat(file).st_mtime_ns != sign:
                if _read(file):
                    raise busy(folder, holder)
                break
    os.ftruncate(file, 0)


def _signs(path: Path, done: threading.Event) -> None:
    while not done.wait(SIGN):
        with contextlib.suppress(OSError):
            os.utime(path)


def machine() -> str:
    """Differs between machines, and between two starts of one."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("utf-8").strip()
    except OSError:
        return socket.gethostname()


def _read(file: int) -> dict[str, object]:
    """Who holds the lock, or nothing."""
    try:
        found = parse(os.pread(file, MOST, 0))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def record(machine: str) -> dict[str, object]:
    """What a lock of this process says."""
    about = {"host": socket.gethostname(), "pid": os.getpid(), "machine": machine, "id": secrets.token_hex(4)}
    return {**about, "since": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"}


def lives(pid: int) -> bool:
    """Whether this machine may have a process of that number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def named(holder: dict[str, object]) -> str:
    """Who holds a lock, for a message."""
    if not holder:
        return "another process"
    known = {name: str(holder.get(name, "?"))[:100] for name in ("pid", "host", "since", "id")}
    return f"process {known['pid']} on {known['host']} (since {known['since']}, lock {known['id']})"


def tell_of(folder: Path, holder: dict[str, object]) -> None:
    """Says what is waited for where a lock was left by a process that may be no more."""
    print(f"{folder} was left locked by {named(holder)}; waits {SILENT:.0f} s for a sign of life", file=sys.stderr)


def busy(folder: Path, holder: dict[str, object]) -> ConfigError:
    """What the others are told."""
    return ConfigError(f"{folder} is being written by {named(holder)}; {END_IT}")
