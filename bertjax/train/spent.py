"""Where the time of a run goes: into steps, and into what is none."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax

APART = ("compile", "evaluate", "save")  # in the course of training, while no step is under way
PARTS = {  # of a run's time, and how they are told
    "steps": "steps",
    "start": "starting",
    "compile": "compiling",
    "data": "waiting for data",
    "evaluate": "evaluating",
    "save": "saving",
    "lost": "lost steps",
}


class Moment(NamedTuple):
    """A moment, and what this process had spent by then on what is no step."""

    seconds: float  # of a clock
    apart: float
    waited: float


class Spent:
    """Seconds of a run up to now, by PARTS; those of processes before this one too."""

    def __init__(self, before: Mapping[str, float], since: float | None = None) -> None:
        """`since` is when this process took the run up (`time.perf_counter`): from then until now it was starting."""
        now = time.perf_counter()
        self._parts = {**dict.fromkeys(PARTS, 0.0), **before}
        self._before, self._since = sum(before.values()), now if since is None else since
        self._parts["start"] += now - self._since

    @contextmanager
    def on(self, part: str, made: Any = None) -> Iterator[None]:  # noqa: ANN401 (any pytree)
        """What is done in here is of this part; it begins when the devices have made `made`."""
        jax.block_until_ready(made)
        began = time.perf_counter()
        try:
            yield
        finally:
            self._parts[part] += time.perf_counter() - began

    @contextmanager
    def waiting(self, asked: Any) -> Iterator[None]:  # noqa: ANN401 (a jax.Array, whose stubs lack `is_ready`)
        """What is done in here brings data. The devices stand still for it if they have made `asked` when it is over.

        They may have been at work for a part of it: it is the most that can have been lost. `asked` is None before the
        first step: then nothing is counted.
        """
        began = time.perf_counter()
        yield
        if asked is not None and asked.is_ready():
            self._parts["data"] += time.perf_counter() - began

    def now(self) -> Moment:
        """This moment."""
        return Moment(time.perf_counter(), sum(self._parts[part] for part in APART), self._parts["data"])

    def seconds(self) -> float:
        """All of them."""
        return self._before + time.perf_counter() - self._since

    def by_part(self) -> dict[str, float]:
        """Those of each part; their sum is `seconds`."""
        others = sum(seconds for part, seconds in self._parts.items() if part != "steps")
        return {part: round(seconds, 3) for part, seconds in {**self._parts, "steps": self.seconds() - others}.items()}


def shares(parts: Mapping[str, float]) -> dict[str, str]:
    """Of each part its share of them all, in percent."""
    total = sum(parts.values()) or 1.0
    return {part: f"{seconds / total:.0%}" for part, seconds in parts.items()}
