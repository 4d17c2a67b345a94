"""Signals that ask a run to stop, read between two steps; several processes stop after the same one."""

import os
import signal
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils


class Interrupted(Exception):
    """The run was asked to stop; its last step is saved."""


class StopSignal:
    """Turns SIGTERM and SIGINT into a request that is read between two steps; a second one stops at once.

    Where there are several processes, jax has a handler of its own for SIGTERM, which tells the others: all are asked
    to stop after the same step. SIGINT is handed on to it.
    """

    def __init__(self) -> None:
        self._name = ""
        self._old: dict[int, Any] = {}
        self._several = jax.process_count() > 1

    def __enter__(self) -> "StopSignal":
        for number in (signal.SIGINT,) if self._several else (signal.SIGTERM, signal.SIGINT):
            self._old[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._name:
            raise KeyboardInterrupt
        self._name = signal.Signals(number).name
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():  # None: one that was not set from Python, as jax's
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def after(self, step: int) -> str:
        """The signal that asks the run to stop after this step, or ""; to be called once after every step."""
        if not self._several:
            return self._name
        return "SIGTERM" if multihost_utils.reached_preemption_sync_point(step) else ""
