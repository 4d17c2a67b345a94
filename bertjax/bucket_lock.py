"""One writer for a run in a bucket: RUN/run.lock is an object that one alone can make, and that shows signs of life.

What decides is the store: it writes an object only if the one there is of the generation that is named. So two starts
at once are kept apart, and a lock is taken over by one alone.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bertjax import bucket, lock
from bertjax.bucket import BucketPath
from bertjax.errors import ConfigError, StorageError
from bertjax.parsing import parse
from bertjax.storage import writing

LOST = StorageError.code

_own: set[str] = set()  # the locks of this process


@contextmanager
def held(folder: BucketPath) -> Iterator[None]:
    """Keeps all others from writing in a folder; raises ConfigError, naming the holder, where one does.

    A holder counts as gone when it has given no sign of life for lock.SILENT seconds: so long is waited, but for a
    process of this machine that is seen to have ended.
    """
    path = folder / lock.NAME
    about = lock.record(_machine())
    text = json.dumps(about).encode()
    signs = _Signs(path, text, _acquire(path, folder, text))
    _own.add(str(about["id"]))
    try:
        yield
    finally:
        signs.end()
        _own.discard(str(about["id"]))


def _acquire(path: BucketPath, folder: BucketPath, text: bytes) -> int:
    """The generation of the lock, once it is ours."""
    while True:
        try:
            with writing(folder):
                return bucket.write(path, text, over=0)
        except FileExistsError:
            generation, found = _read(path)
        if found.get("id") in _own:
            raise ConfigError(f"{folder} is being written by this process already")
        if found == parse(text):  # the store's answer to the first of several tries was lost
            return generation
        if generation:
            _wait_for(path, folder, generation, found)


def _wait_for(path: BucketPath, folder: BucketPath, generation: int, holder: dict[str, Any]) -> None:
    """Returns when the holder of a lock is gone, and the lock with it."""
    if not _ended(holder):
        lock.tell_of(folder, holder)
        began = time.monotonic()
        while time.monotonic() < began + lock.SILENT:
            time.sleep(lock.SIGN / 10)
            about = bucket.stat(path)
            if not about:
                return
            if about.generation != generation:
                raise lock.busy(folder, holder)
    with contextlib.suppress(FileNotFoundError, FileExistsError):  # another was faster
        bucket.delete(path, generation=generation)


class _Signs:
    """Writes the lock anew now and then; a process whose lock another has taken ends at once."""

    def __init__(self, path: BucketPath, text: bytes, generation: int) -> None:
        self._path, self._text, self._generation = path, text, generation
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._give, daemon=True)
        self._thread.start()

    def _give(self) -> None:
        while not self._done.wait(lock.SIGN):
            try:
                self._generation = bucket.write(self._path, self._text, over=self._generation)
            except FileExistsError:
                if who := self._taken_by():
                    print(
                        f"{self._path}: this process gave no sign of life for long, and {who}: it ends, as two would "
                        "write there",
                        file=sys.stderr,
                        flush=True,
                    )
                    os._exit(LOST)
                    return
            except Exception:  # gcsfs raises many kinds: the network may be away for a while
                continue

    def _taken_by(self) -> str:
        """What became of a lock that is of another generation; "" where it is ours, and an answer was lost."""
        try:
            generation, found = _read(self._path)
        except Exception:
            return ""
        if found == parse(self._text):
            self._generation = generation
            return ""
        return f"{lock.named(found)} has taken the lock" if generation else "its lock was deleted"

    def end(self) -> None:
        """Frees the lock, as far as the bucket can be reached."""
        self._done.set()
        self._thread.join()
        with contextlib.suppress(Exception):
            bucket.delete(self._path, generation=self._generation)


def holder(folder: BucketPath) -> str:
    """Who writes in a folder, or nothing; one whose signs of life have ended is waited for."""
    generation, found = _read(folder / lock.NAME)
    if not generation or _ended(found):
        return ""
    began = time.monotonic()
    while time.monotonic() < began + 1.5 * lock.SIGN:
        time.sleep(lock.SIGN / 10)
        about = bucket.stat(folder / lock.NAME)
        if not about:
            return ""
        if about.generation != generation:
            return lock.named(found)
    return ""


def _read(path: BucketPath) -> tuple[int, dict[str, Any]]:
    """The generation of a lock and who holds it; 0 where there is none."""
    about = bucket.stat(path)
    if not about or about.size > lock.MOST:
        return (about.generation if about else 0), {}
    try:
        found = parse(path.read_bytes())
    except FileNotFoundError:
        return 0, {}
    except ValueError:
        return about.generation, {}
    return about.generation, found if isinstance(found, dict) else {}


def _ended(holder: dict[str, Any]) -> bool:
    """Whether a holder is a process of this machine that is no more."""
    pid = lock.process_on(_machine(), holder)
    if not pid:
        return False
    if pid == os.getpid():  # a container that was started anew has the numbers of the one before
        return holder.get("id") not in _own
    return not lock.lives(pid)


def _machine() -> str:
    """This machine, since it was started, and of several containers this one: each has processes of its own."""
    with contextlib.suppress(OSError):
        return f"{lock.machine()} {os.readlink('/proc/self/ns/pid')}"
    return f"{lock.machine()} {socket.gethostname()}"
