"""Starts a command again until it is done: `python -m bertjax.supervise bertjax pretrain ... --out RUN`.

It is started again after whatever may go better the next time: a signal, a hang, an abort of jax, a lost process. Not
after a wrong command or a full disk; nor where it was started three times in a row and made no new checkpoint: then
this program ends with 1, which says to whatever has started it that another start is of no use.
"""

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PurePath
from types import FrameType

from bertjax.errors import AGAIN, KILLED, StorageError, UserError, redacted
from bertjax.paths import as_path, finished, remote, sizes, steps_in, write_text

FINAL = (0, UserError.code, StorageError.code, KILLED, 126, 127)  # the last two: a shell that cannot start it
IN_VAIN = 1
RESTARTS = 3  # in a row without a new checkpoint
LONGEST = 300.0  # seconds between two starts


class Progress:
    """How many restarts in a row have brought nothing; the first start is none."""

    def __init__(self, out: Path | None, file: Path | None = None) -> None:
        """`out` is where the command writes, `file` what is remembered where each start is of another program."""
        self.out, self._file = out, file
        self.vain, self._seen = -1, kept(out)
        if file and file.exists():
            try:
                before = json.loads(file.read_text("utf-8"))
                self.vain, self._seen = int(before["restarts"]), set(before["seen"])
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{file}: is not what was written there ({error}); delete it") from error
        self._remember()  # one that cannot be written is found out now

    def look(self) -> bool:
        """Whether another start is worth while; to be called after each that ended in a way that may go better."""
        there = kept(self.out)
        self.vain = 0 if there - self._seen else self.vain + 1
        self._seen |= there
        self._remember()
        return self.vain < RESTARTS

    def forget(self) -> None:
        """The job is over."""
        if self._file:
            self._file.unlink(missing_ok=True)

    def _remember(self) -> None:
        if self._file:
            write_text(self._file, json.dumps({"restarts": self.vain, "seen": sorted(self._seen)}))


class Supervisor:
    """Runs one command as often as it takes."""

    def __init__(self, command: Sequence[str], progress: Progress) -> None:
        self._command, self._progress = command, progress
        self._child: subprocess.Popen[bytes] | None = None
        self._asked = threading.Event()  # to stop
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
                signal.signal(number, self._hand_on)

    def run(self, pause: float) -> int:
        """The exit code of the last start. `pause` is that before the first start anew, in seconds.

        It doubles with every one that brought nothing.
        """
        while True:
            code = self._start()
            if code in FINAL:
                return code
            if self._asked.is_set():
                return AGAIN  # whatever it died of while it was stopped
            if not self._progress.look():
                return self._give_up(code)
            wait = min(LONGEST, pause * 2**self._progress.vain)
            _say(f"ended with {code}: starts again in {wait:g} seconds")
            if self._asked.wait(wait):
                return AGAIN

    def once(self) -> int:
        """The same for one start, where another program makes them: AGAIN says that it should."""
        code = self._start()
        if code in FINAL:
            self._progress.forget()
            return code
        if not self._progress.look():
            self._progress.forget()
            return self._give_up(code)
        _say(f"ended with {code}; restarts in a row that made no new checkpoint: {self._progress.vain}")
        return AGAIN

    def _start(self) -> int:
        self._child = subprocess.Popen(self._command)
        if self._asked.is_set():  # while it began
            self._child.send_signal(signal.SIGTERM)
        code = self._child.wait()
        return 128 - code if code < 0 else code  # as a shell says it

    def _give_up(self, code: int) -> int:
        where = f" in {self._progress.out}" if self._progress.out else ""
        _say(f"ended with {code}; {RESTARTS} restarts in a row made no new checkpoint{where}: gives up")
        return IN_VAIN

    def _hand_on(self, number: int, frame: FrameType | None) -> None:
        """SIGTERM for both: of a terminal the command has its Ctrl-C already, and a second one would end it at once."""
        self._asked.set()
        if self._child and self._child.poll() is None:
            self._child.send_signal(signal.SIGTERM)


def kept(out: Path | None) -> set[str]:
    """What no start makes twice: checkpoints of a run or of those of a suite, whole shards."""
    if out is None:
        return set()
    if remote(out):
        try:
            return {name for name in finished(sizes(out)) if PurePath(name).parent.name == "checkpoints"}
        except Exception:  # gcsfs raises many kinds: a bucket that is out of reach has nothing new
            return set()
    found: set[str] = set()
    with suppress(OSError):  # what cannot be read now has nothing new
        found |= {name for name in os.listdir(out) if name.endswith(".array_record")}
    for folder, inside, _ in os.walk(out):  # passes over what other hosts take away under it
        if "checkpoints" in inside:
            inside.remove("checkpoints")  # whose insides are many files
            steps = Path(folder, "checkpoints")
            with suppress(OSError):
                found |= {str(steps.relative_to(out) / str(number)) for number in steps_in(steps)}
    return found


def _out(command: Sequence[str]) -> Path | None:
    for i, word in enumerate(command):
        if word == "--out" and command[i + 1 :]:
            return as_path(command[i + 1])
        if word.startswith("--out="):
            return as_path(word.removeprefix("--out="))
    return None


def _say(text: str) -> None:
    with suppress(OSError):  # the terminal may be gone
        print(f"supervise: {text}", file=sys.stderr, flush=True)


def _seconds(text: str) -> float:
    if not 0 <= float(text) <= LONGEST:
        raise argparse.ArgumentTypeError(f"{text}: from 0 to {LONGEST:g} seconds")
    return float(text)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bertjax.supervise", description=__doc__)
    parser.add_argument("--pause", type=_seconds, default=2.0, help="seconds before the first start anew; doubles")
    parser.add_argument(
        "--once", type=Path, metavar="FILE", help="start it once and count in FILE; 42 says that it should start again"
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, help="bertjax pretrain ... --out RUN")
    given = parser.parse_args()
    command = given.command[1:] if given.command[:1] == ["--"] else given.command
    out = _out(command)
    try:
        if not command or not (out or given.once):
            said = redacted(shlex.join(command)) or "no command"
            raise UserError(f"{said}: has no --out, by which its progress is seen; give one")
        supervisor = Supervisor(command, Progress(out, given.once))
        sys.exit(supervisor.once() if given.once else supervisor.run(given.pause))
    except UserError as error:
        _say(str(error))
        sys.exit(error.code)
    except OSError as error:
        _say(f"{error.filename}: {error.strerror}")
        sys.exit(UserError.code)


if __name__ == "__main__":
    main()
