"""Starts a command again until it is done: `python -m bertjax.supervise bertjax pretrain ... --out RUN`.

It is started again after whatever may go better the next time: a signal, a hang, an abort of jax, a lost process. Not
after a wrong command or a full disk; nor where it was started three times in a row and made no new checkpoint.
"""

import argparse
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from bertjax.errors import AGAIN, KILLED, StorageError, UserError, redacted
from bertjax.paths import as_path, remote, sizes

FINAL = (0, UserError.code, StorageError.code, KILLED, 126, 127)  # the last two: a shell that cannot start it
RESTARTS = 3  # in a row without a new checkpoint
LONGEST = 300.0  # seconds between two starts


class Supervisor:
    """Runs one command as often as it takes."""

    def __init__(self, command: Sequence[str], pause: float) -> None:
        """`pause` is the seconds before the first start anew; it doubles with every one that brought nothing."""
        self._command, self._pause, self._out = command, pause, as_path(_out(command))
        self._child: subprocess.Popen[bytes] | None = None
        self._asked = threading.Event()  # to stop

    def run(self) -> int:
        """The exit code of the last start."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._hand_on)
        # Restarts in a row that brought nothing; the first start is none.
        vain, seen = -1, kept(self._out)
        while True:
            self._child = subprocess.Popen(self._command)
            code = self._child.wait()
            code = 128 - code if code < 0 else code  # as a shell says it
            if code in FINAL or self._asked.is_set():
                return code
            vain = 0 if kept(self._out) - seen else vain + 1
            seen |= kept(self._out)
            if vain == RESTARTS:
                _say(f"ended with {code}; {RESTARTS} restarts in a row made no new checkpoint in {self._out}: gives up")
                return code
            wait = min(LONGEST, self._pause * 2**vain)
            _say(f"ended with {code}: starts again in {wait:g} seconds")
            if self._asked.wait(wait):
                return AGAIN

    def _hand_on(self, number: int, frame: FrameType | None) -> None:
        """SIGTERM for both: of a terminal the command has its Ctrl-C already, and a second one would end it at once."""
        self._asked.set()
        if self._child and self._child.poll() is None:
            self._child.send_signal(signal.SIGTERM)


def kept(out: Path) -> set[Path]:
    """What no start makes twice: checkpoints of a run or of those of a suite, whole shards."""
    if remote(out):
        try:
            return {out / name for name in sizes(out) if re.search(r"(^|/)checkpoints/\d+/commit_success\.txt$", name)}
        except Exception:  # gcsfs raises many kinds: a bucket that is out of reach has nothing new
            return set()
    return {*(path for path in out.rglob("checkpoints/*") if path.name.isdigit()), *out.glob("*.array_record")}


def _out(command: Sequence[str]) -> str:
    for i, word in enumerate(command):
        if word == "--out" and command[i + 1 :]:
            return command[i + 1]
        if word.startswith("--out="):
            return word.removeprefix("--out=")
    _say(f"{redacted(shlex.join(command)) or 'no command'}: has no --out, by which its progress is seen; give one")
    sys.exit(UserError.code)


def _say(text: str) -> None:
    print(f"supervise: {text}", file=sys.stderr, flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bertjax.supervise", description=__doc__)
    parser.add_argument("--pause", type=float, default=2.0, help="seconds before the first start anew; doubles")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="bertjax pretrain ... --out RUN")
    given = parser.parse_args()
    try:
        sys.exit(Supervisor(given.command, given.pause).run())
    except OSError as error:
        _say(f"{given.command[0]}: {error.strerror}")
        sys.exit(UserError.code)


if __name__ == "__main__":
    main()
