"""Signals that ask a process to stop: noted at any moment, read between two steps, and obeyed in time.

SIGTERM, Ctrl-C or the end of the terminal (SIGHUP, but under nohup) is noted even while the main thread compiles or
waits. A run that can save has `grace` seconds for it; then, or at once where nothing is under way that could be saved,
the process ends, and the last checkpoint stands. Free of jax, so that a process can listen before it imports anything.
"""

import os
import select
import shlex
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

from bertjax.errors import AGAIN, KILLED, at_least, redacted
from bertjax.paths import as_path, steps_in

VERBS = ("prepare", "pretrain", "finetune")  # what takes long, and goes on where it was stopped
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
GRACE = 8  # seconds
Found = TypeVar("Found")


@dataclass(frozen=True)
class Limits:
    """How long a run waits."""

    grace: int = GRACE
    """seconds after SIGTERM, SIGHUP or Ctrl-C to save in; then the run ends, and the last checkpoint stands"""
    hang_timeout: int = 1800
    """seconds without a step, batch of an evaluation or save, compilations apart, after which the run counts as hung:
    where its threads stand is told, and it ends with exit code 75; 0: never"""

    def __post_init__(self) -> None:
        at_least(0, self, "grace", "hang_timeout")


class Interrupted(Exception):
    """The run was asked to stop; its last step is saved."""


class Request:
    """Whether this process is asked to stop; there is one, as signals are the process's."""

    def __init__(self) -> None:
        self.name = ""  # of the signal
        self.out = ""  # the folder that is worked on
        self.grace = float(GRACE)
        self.due: Callable[[], bool] | None = None  # whether to stop after this step, where several processes agree
        self.tells = True  # whether it is this process that speaks
        self.taken_up = time.perf_counter()  # when this process took up what it is at
        self._begun = False
        self._interrupts = 0  # how often Ctrl-C was pressed
        self._saving = 0  # whether what is under way ends in a checkpoint when asked to
        self._code: int | None = None  # of a process that is on its way out
        self.command: Sequence[str] = ("",)  # what would go on
        self._old: dict[int, Any] = {}

    def begin(self) -> None:
        """Listens from now on until the process ends."""
        self._begun = True
        read, write = os.pipe()
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(read,), daemon=True).start()
        self.listen()

    def works_on(self, out: str, grace: float) -> None:
        """The folder that is worked on, and the seconds that there are to save in."""
        self.out, self.grace = out, float(grace)
        if not self._begun:  # it is no command, which takes its run up when it starts
            self.take_up()

    def take_up(self) -> None:
        """What comes now is another run, or the same one from another step."""
        self.taken_up = time.perf_counter()

    def over(self, code: int) -> None:
        """Nothing is left to be stopped; where the process was asked to stop, it still ends in time."""
        self._code = code
        if self._begun:
            for number in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)  # the interpreter's clean-up would make it deadly again

    def listen(self) -> None:
        """Takes the signals, but SIGHUP where the process was started to outlive its terminal (nohup)."""
        outlives = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        heard = [number for number in SIGNALS if not (outlives and number == signal.SIGHUP)]
        self._old = {number: signal.signal(number, self._note) for number in heard}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            for output in (1, 2):
                drop_unread(output)  # what is printed to a terminal that is gone would be an error
        self._interrupts += number == signal.SIGINT
        if self._interrupts > 1:
            raise KeyboardInterrupt
        self.name = self.name or signal.Signals(number).name  # who watches may have been the first to see it

    def _watch(self, pipe: int) -> None:
        """Sees signals while the main thread is busy elsewhere, and the time that passes."""
        interrupts, left = 0, None
        while left is None or left > 0:
            began = time.monotonic()
            seen = os.read(pipe, 64) if select.select([pipe], [], [], left)[0] else b""
            interrupts += seen.count(signal.SIGINT)
            if interrupts > 1:
                time.sleep(1)  # for the main thread, which has it too
                self.end(KILLED, "interrupted", kept=False)
            if left is not None:
                left -= time.monotonic() - began
            elif self._code is None and (asked := [number for number in SIGNALS if number in seen]):
                self.name = self.name or asked[0].name
                left = self.grace if self._saving or self.due else 0
        self.end(AGAIN, f"{self.name}: stopped{self._late()}")

    def ask(self, name: str) -> None:
        """The same as a signal of that name, from another process."""
        if not self.name:
            self.name = name
            if self._begun:
                signal.raise_signal(signal.SIGTERM)  # wakes who watches

    def _late(self) -> str:
        return f", as its step took longer than {self.grace:g} seconds" if self._saving else ""

    def kept(self) -> str:
        """What is on disk, and the command that goes on from there; nothing of a command that keeps nothing."""
        if self.command[0] not in VERBS:
            return ""
        again = redacted(f"go on with\n  {shlex.join(['bertjax', *self.command])}")
        if self.command[0] == "prepare":
            return f"; whole shards in {self.out or 'its folder'} are kept: {again}"
        step = within(1, lambda: last_step(as_path(self.out))) if self.out else 0
        found = f"the last checkpoint is of step {step} in {self.out}" if step else "there is no checkpoint yet"
        return f"; {f'{self.out} does not answer' if step is None else found}: {again}"

    def end(self, code: int, message: str, *, kept: bool = True) -> NoReturn:
        """Ends the process whatever its other threads do; so without their locks, and past their clean-up."""
        if self._code is None and self.tells:
            shown = "\x1b[?25h\r" if os.isatty(2) else ""  # a progress bar hides the cursor
            with suppress(OSError):  # the terminal may be gone
                os.write(2, f"{shown}bertjax {self.command[0]}: {message}{self.kept() if kept else ''}\n".encode())
            if self.due:
                time.sleep(1)  # the others end first: without process 0 they could not end as they should
        os._exit(code if self._code is None else self._code)


REQUEST = Request()


class StopSignal:
    """While it is open the process is not ended before its grace is over; its requests are read by `after_step`."""

    def __enter__(self) -> "StopSignal":
        self._own = not REQUEST._old
        if self._own:
            REQUEST.listen()
        REQUEST._saving += 1
        return self

    def __exit__(self, *_: object) -> None:
        REQUEST._saving -= 1
        if self._own:
            for number, handler in REQUEST._old.items():
                signal.signal(number, handler)
            REQUEST.name, REQUEST._interrupts, REQUEST._old = "", 0, {}

    def after_step(self) -> str:
        """The signal that asks the run to stop after this step, or ""; to be called once after every step."""
        if REQUEST.due:
            return REQUEST.name if REQUEST.due() else ""
        return REQUEST.name


def drop_unread(output: int) -> bool:
    """Whether nobody reads an output of this process (a pipe or a terminal that is gone); it goes nowhere then."""
    look = select.poll()
    look.register(output, 0)
    unread = any(event & (select.POLLERR | select.POLLHUP) for _, event in look.poll(0))
    if unread:
        os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return unread


def within(seconds: float, look: Callable[[], Found]) -> Found | None:
    """What `look` finds; None where that takes longer, as with a file system that is gone."""
    found: list[Found] = []
    thread = threading.Thread(target=lambda: found.append(look()), daemon=True)
    thread.start()
    thread.join(seconds)
    return found[0] if found else None


def last_step(run: Path) -> int:
    """The last finished checkpoint, whole or not; 0 for none."""
    return max(steps_in(run / "checkpoints"), default=0)
