"""A run in which nothing moves any more: where every thread stands, and an end that a supervisor starts again after."""

import faulthandler
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile

from bertjax.errors import HUNG
from bertjax.paths import remote
from bertjax.train.stop import REQUEST, within

# Where jax traces, lowers and compiles a program.
COMPILER = tuple(f"jax/_src/{name}.py" for name in ("interpreters/partial_eval", "interpreters/mlir", "compiler"))


class _Moves:
    """How often something moved."""

    count = 0


def moved() -> None:
    """A step, a batch of an evaluation or a save is done."""
    _Moves.count += 1


@contextmanager
def watched(seconds: float, run: Path, process: int) -> Iterator[None]:
    """Ends the process where nothing moves for so long, with all stacks in RUN/stacks-PROCESS.txt; 0: never."""
    over = threading.Event()
    thread = threading.Thread(target=_watch, args=(over, seconds, run / f"stacks-{process}.txt"), daemon=True)
    if seconds:
        thread.start()
    try:
        yield
    finally:
        over.set()


def _watch(over: threading.Event, seconds: float, file: Path) -> None:
    # Time is counted in naps, so that it stands still while the whole process or machine sleeps.
    nap, still, seen = min(1.0, seconds / 10), 0.0, -1
    while not over.wait(nap):
        still = 0.0 if _Moves.count != seen or compiling() else still + nap
        seen = _Moves.count
        if still >= seconds:
            break
    else:
        return
    faulthandler.dump_traceback(2, all_threads=True)
    written = within(5, lambda: _write(file))
    where = f"where every thread stood is in {file}" if written else f"{file} cannot be written: see above"
    REQUEST.tells = True  # each process for itself
    REQUEST.end(HUNG, f"no step, batch of an evaluation or save for {seconds:g} seconds: it hangs; {where}")


def _write(file: Path) -> bool:
    with suppress(Exception), TemporaryFile() if remote(file) else file.open("wb") as stream:
        faulthandler.dump_traceback(stream, all_threads=True)
        if remote(file):
            stream.seek(0)
            file.write_bytes(stream.read())
        return True
    return False


def compiling() -> bool:
    """Whether the main thread makes a program or waits for XLA to compile it, which may take long and tells nothing."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame:
        if frame.f_code.co_filename.endswith(COMPILER):
            return True
        frame = frame.f_back
    return False
