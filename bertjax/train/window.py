"""What is said of the steps since the last line of the log, without making a device wait for it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bertjax.contracts import Metrics
from bertjax.train.guard import Watch
from bertjax.train.log import Writer, averages
from bertjax.train.spent import Moment

NEVER = Moment(0, 0, 0)
sum_metrics = jax.jit(lambda a, b: jax.tree.map(jnp.add, a, b))


@dataclass
class Window:
    """Metrics summed on the device since the last line of the log; saved with the state, so a resumed log is equal."""

    metrics: Metrics
    work: list[tuple[jax.Array, float]] = field(default_factory=list)  # of each step real tokens, and FLOPs for each
    began: Moment = NEVER

    def add(self, metrics: Metrics, tokens: jax.Array, flops_per_token: float) -> None:
        """One more step; nothing is fetched from the device."""
        self.metrics = sum_metrics(self.metrics, metrics) if self.metrics else metrics
        self.work.append((tokens, flops_per_token))

    def to_json(self) -> dict[str, list[float]]:
        """Exact: float32 survives JSON."""
        return {name: [float(t), float(w)] for name, (t, w) in jax.device_get(self.metrics).items()}

    @classmethod
    def from_json(cls, saved: dict[str, list[float]], began: Moment) -> "Window":
        """The inverse of `to_json`; time and tokens count anew."""
        metrics: Any = {name: (np.float32(t), np.float32(w)) for name, (t, w) in saved.items()}
        return cls(metrics, began=began)


@dataclass(frozen=True)
class Rates:
    """How a window's work and time are told."""

    schedule: Callable[[int], Any]
    peak_flops: float  # of all devices together; 0: not known

    def figures(self, window: Window, updates: int, ended: Moment) -> dict[str, float]:
        """Of a window whose metrics had come when it `ended`, and after so many updates of the parameters.

        Work is what the model needs for real tokens, not for padding: MFU as in Chowdhery et al. 2022, of the bf16
        peak; GFLOP a second where no peak is known.
        """
        passed, apart, waited = (after - before for after, before in zip(ended, window.began, strict=True))
        seconds = passed - apart
        work = [(float(tokens), per_token) for tokens, per_token in jax.device_get(window.work)]
        tokens, flops = sum(n for n, _ in work), sum(n * per_token for n, per_token in work)
        figures = {"lr": float(self.schedule(max(0, updates - 1))), "tokens_per_second": round(tokens / seconds, 1)}
        name, unit = ("mfu", self.peak_flops) if self.peak_flops else ("gflops_per_second", 1e9)
        return {**figures, name: float(f"{flops / seconds / unit:.4g}"), "data_wait": round(waited / seconds, 4)}


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
        following.began = self._writer.spent.now()
        rates = self._rates.figures(window, number - self._watch.skipped, following.began)
        self._writer.write(number, {**figures, **rates})
