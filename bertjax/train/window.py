"""What is said of the steps since the last line of the log, without making a device wait for it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bertjax.contracts import Metrics
from bertjax.train.guard import Watch
from bertjax.train.log import Writer, averages

sum_metrics = jax.jit(lambda a, b: jax.tree.map(jnp.add, a, b))


@dataclass
class Window:
    """Metrics summed on the device since the last line of the log; saved with the state, so a resumed log is equal."""

    metrics: Metrics
    tokens: float = 0  # real ones, over all hosts
    flops: float = 0
    seconds: float = 0  # in what is no training
    began: float = 0

    def add(self, metrics: Metrics, tokens: float, flops: float) -> None:
        """One more step; nothing is fetched from the device."""
        self.metrics = sum_metrics(self.metrics, metrics) if self.metrics else metrics
        self.tokens += tokens
        self.flops += flops

    def to_json(self) -> dict[str, list[float]]:
        """Exact: float32 survives JSON."""
        return {name: [float(t), float(w)] for name, (t, w) in jax.device_get(self.metrics).items()}

    @classmethod
    def from_json(cls, saved: dict[str, list[float]]) -> "Window":
        """The inverse of `to_json`; time and tokens count anew."""
        metrics: Any = {name: (np.float32(t), np.float32(w)) for name, (t, w) in saved.items()}
        return cls(metrics, began=time.perf_counter())


@dataclass(frozen=True)
class Rates:
    """How a window's work and time are told."""

    schedule: Callable[[int], Any]
    peak_flops: float  # of all devices together; 0: not known

    def figures(self, window: Window, last_step: int) -> dict[str, float]:
        """Of a window whose metrics have come.

        Work is what the model needs for real tokens, not for padding: MFU as in Chowdhery et al. 2022, of the bf16
        peak; GFLOP a second where no peak is known.
        """
        seconds = time.perf_counter() - window.began - window.seconds
        figures = {"lr": float(self.schedule(last_step)), "tokens_per_second": round(window.tokens / seconds, 1)}
        name, unit = ("mfu", self.peak_flops) if self.peak_flops else ("gflops_per_second", 1e9)
        return {**figures, name: float(f"{window.flops / seconds / unit:.4g}")}


class LateLog:
    """Writes a window one step late: its metrics are fetched while the devices are at work on the next step."""

    def __init__(self, writer: Writer, watch: Watch, rates: Rates, loss_terms: tuple[str, ...]) -> None:
        self._writer, self._watch, self._rates, self._loss_terms = writer, watch, rates, loss_terms
        self._waiting: tuple[int, Window] | None = None

    def __enter__(self) -> "LateLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.flush(Window({}))

    def put(self, number: int, window: Window) -> Window:
        """The window that ended with step `number` is to be written; gives the next one."""
        self._waiting = number, window
        return Window({})

    def flush(self, following: Window) -> None:
        """Writes what waits, if anything does; the time of `following` begins where its own ends."""
        if self._waiting is None:
            return
        (number, window), self._waiting = self._waiting, None
        self._watch.settle()
        figures = averages(window.metrics, self._loss_terms)
        self._writer.write(number, {**figures, **self._rates.figures(window, number - 1)})
        following.began = time.perf_counter()
