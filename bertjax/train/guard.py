"""Steps gone bad: one whose loss or gradient is not finite is skipped, several in a row are a failure of the run."""

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np

from bertjax.errors import ConfigError, DataError
from bertjax.train.log import Writer

Places = Sequence[Sequence[int]]
Numbers = Callable[[int, Places], list[list[int]]]  # (step, places before it) -> of each source, the examples of it

REMEMBERED = 128  # losses that the next one is compared with
ENOUGH = 32  # of them to say what is usual


@dataclass(frozen=True)
class Guard:
    """What is done about steps gone bad.

    One whose loss or gradient is not finite changes neither parameters nor optimizer, and is told with its examples.
    """

    consecutive: int = 3
    """so many of them in a row are a failure"""
    then: Literal["stop", "rollback"] = "stop"
    """after a failure: stop, with what is known; or go on from the last checkpoint before it with the data after it
    (as PaLM, 5.1; three times at most)"""
    spike: float = 6.0
    """tell of a loss so many standard deviations above the mean of the last 128; with rollback as many of them in
    a row are a failure too; 0: off"""

    def __post_init__(self) -> None:
        if self.consecutive < 1 or self.spike < 0:
            raise ConfigError(f"guard.consecutive={self.consecutive}: at least 1; spike={self.spike}: not below 0")


class Diverged(DataError):
    """Several steps in a row went bad: the first and the last of them, and the places in the data after them."""

    def __init__(self, message: str, first: int, last: int, after: Places) -> None:
        super().__init__(message)
        self.first, self.last, self.after = first, last, after


@dataclass(frozen=True)
class _Watched:
    """A step whose figures are still on the device."""

    number: int
    figures: tuple[jax.Array, jax.Array]  # loss and norm of the gradient
    before: Places
    after: Places


class Watch:
    """Looks at the loss of every step, late: figures are fetched when a line of the log or a checkpoint is due."""

    def __init__(self, guard: Guard, writer: Writer, numbers: Numbers, saved: Mapping[str, Any]) -> None:
        """`saved` is the `to_json` of the step that is gone on from, or empty."""
        self._guard, self._writer, self._numbers = guard, writer, numbers
        self._waiting: list[_Watched] = []
        self._losses = deque[float](saved.get("losses", ()), maxlen=REMEMBERED)
        self._bad, self._high = saved.get("bad", 0), saved.get("high", 0)
        self.skipped: int = saved.get("skipped", 0)  # steps, of the whole run

    def add(self, number: int, figures: tuple[jax.Array, jax.Array], before: Places, after: Places) -> None:
        """One more step; nothing is fetched from the device."""
        self._waiting.append(_Watched(number, figures, before, after))

    def settle(self) -> None:
        """Tells of what went bad since the last time; raises Diverged."""
        waiting, self._waiting = self._waiting, []
        fetched = jax.device_get([step.figures for step in waiting]) if waiting else []
        for step, (loss, norm) in zip(waiting, fetched, strict=True):
            bad = not (math.isfinite(loss) and math.isfinite(norm))
            edge = self._edge()
            high = not bad and loss > edge
            if not bad:  # a spike counts as its edge: it does not widen what is usual, and what lasts comes to be usual
                self._losses.append(float(min(loss, edge)))
            self._bad = self._bad + 1 if bad else 0
            self.skipped += bad
            self._high = self._high + 1 if high else 0
            if bad or high:
                self._tell(step, float(loss), float(norm), "skipped" if bad else "spike")
            if self._bad >= self._guard.consecutive:
                raise self._diverged(step, f"the loss or the gradient was not finite (loss {loss}, norm {norm})")
            if self._high >= self._guard.consecutive and self._guard.then == "rollback":
                raise self._diverged(step, f"the loss was far above the usual ({loss:.3f})")

    def to_json(self) -> dict[str, Any]:
        """What the next steps are judged by; nothing may wait."""
        assert not self._waiting
        return {"losses": list(self._losses), "bad": self._bad, "high": self._high, "skipped": self.skipped}

    def _edge(self) -> float:
        """The loss from which on one is a spike; without end as long as too few are known, or where that is off."""
        if not self._guard.spike or len(self._losses) < ENOUGH:
            return math.inf
        return float(np.mean(self._losses) + self._guard.spike * np.std(self._losses))

    def _tell(self, step: _Watched, loss: float, norm: float, what: str) -> None:
        examples = self._numbers(step.number, step.before)
        about = {"loss": str(loss), "grad_norm": str(norm), "places": [list(place) for place in step.before]}
        text = f"loss {loss:.3f}, norm of the gradient {norm:.3f}; its examples are in metrics.jsonl"
        self._writer.note(step.number, what, {**about, "examples": examples}, text)

    def _diverged(self, step: _Watched, what: str) -> Diverged:
        count = self._guard.consecutive
        first = step.number - count + 1
        leave_out = "; or leave their data out: --guard.then rollback" if self._guard.then == "stop" else ""
        message = (
            f"{what} in {count} steps in a row ({first} to {step.number}). Lower --optimizer.peak-lr or raise "
            f"--optimizer.warmup; or see metrics.jsonl for their examples, if always the same ones fail{leave_out}. "
            "Checkpoints saved before, if there are any, are whole."
        )
        return Diverged(message, first, step.number, step.after)
