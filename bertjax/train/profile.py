"""A profiler trace of a few steps, for XProf, TensorBoard or Perfetto. One that fails costs the run nothing."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

from bertjax.errors import ConfigError
from bertjax.train.log import console


class Profiler:
    """Traces steps `first` to `last` of those that this start of the run makes, rolled back or not; 0, 0: none."""

    def __init__(self, first: int, last: int, folder: Path) -> None:
        self._first, self._last, self._folder = first, last, folder
        self._tracing = False
        self._count = 0  # of the steps so far

    def __enter__(self) -> "Profiler":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        if self._count < self._first:
            console.print(f"profile: no trace, as this start of the run ended before its step {self._first}")

    def step(self) -> jax.profiler.StepTraceAnnotation:
        """What the next step runs in; a trace begins with the first of them."""
        self._count += 1
        if self._count == self._first:
            with _told():
                self._folder.mkdir(parents=True, exist_ok=True)  # or that it cannot be made comes out at the end
                jax.profiler.start_trace(self._folder)
                self._tracing = True
        return jax.profiler.StepTraceAnnotation("train", step_num=self._count)

    def after_step(self, made: Any) -> None:  # noqa: ANN401 (any pytree)
        """The trace ends when the last step has made what it makes."""
        if self._count == self._last:
            jax.block_until_ready(made)
            self._stop()

    def _stop(self) -> None:
        if self._tracing:
            self._tracing = False
            with _told():
                jax.profiler.stop_trace()
                console.print(
                    f"profile: a trace of steps {self._first} to {self._count} of this start is in {self._folder}"
                )


@contextmanager
def _told() -> Iterator[None]:
    """An error of the profiler, which has many kinds, is one line."""
    try:
        yield
    except Exception as error:
        why, _, _ = str(error).partition("\n")
        console.print(f"profile: no trace, as it cannot be made ({type(error).__name__}: {why}); the run goes on")


def profiled(steps: str) -> tuple[int, int]:
    """The first and last step of "10:15"; 0, 0 for none."""
    first, _, last = steps.partition(":")
    if not steps:
        return 0, 0
    if not (re.fullmatch(r"\d{1,9}:\d{1,9}", steps) and 1 <= int(first) <= int(last)):
        raise ConfigError(f"profile={steps}: give the first and the last step of the trace, as 10:15")
    return int(first), int(last)
