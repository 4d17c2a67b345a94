"""The loop: batches in, a trained state out; what happens now and then is a hook."""

import math
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bertjax.contracts import Batch, Metrics
from bertjax.errors import DataError
from bertjax.train.checkpoint import Saver
from bertjax.train.log import Writer, averages, console
from bertjax.train.mesh import put_batch
from bertjax.train.optim import Schedule
from bertjax.train.step import TrainState, TrainStep

Hook = Callable[[TrainState], dict[str, float]]  # an evaluation: figures to write and to choose checkpoints by


class Batches(Protocol):
    """Host batches with places to take up again from."""

    @property
    def places(self) -> Sequence[Sequence[int]]:
        """Where the next batch is, in each source of the data."""
        ...

    def __next__(self) -> Mapping[str, np.ndarray]:
        """The next batch of this host's rows."""
        ...


class Interrupted(Exception):
    """The run was asked to stop; its last step is saved."""


@dataclass(frozen=True)
class Every:
    """How often things happen, in steps."""

    log: int
    evaluate: int
    save: int


class _StopSignal:
    """Turns SIGTERM and SIGINT into a flag that is read between two steps; a second one stops at once."""

    def __init__(self) -> None:
        self.name = ""
        self._old: dict[int, Any] = {}

    def __enter__(self) -> "_StopSignal":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._old[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.name:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)


@dataclass
class Window:
    """Metrics summed on the device since the last line of the log; saved with the state, so a resumed log is equal."""

    metrics: Metrics
    tokens: int = 0
    began: float = 0.0

    def add(self, metrics: Metrics, tokens: int) -> None:
        """One more step; nothing is fetched from the device."""
        self.metrics = _sum(self.metrics, metrics) if self.metrics else metrics
        self.tokens += tokens

    def to_json(self) -> dict[str, list[float]]:
        """Exact: float32 survives JSON."""
        return {name: [float(t), float(w)] for name, (t, w) in jax.device_get(self.metrics).items()}

    @classmethod
    def from_json(cls, saved: dict[str, list[float]]) -> "Window":
        """The inverse of `to_json`; time and tokens count anew."""
        metrics = {name: (jnp.float32(t), jnp.float32(w)) for name, (t, w) in saved.items()}
        return cls(metrics, began=time.perf_counter())


_sum = jax.jit(lambda a, b: jax.tree.map(jnp.add, a, b))
_finite = jax.jit(lambda tree: jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)])))


@dataclass(frozen=True)
class Fit:
    """The fixed parts of a training run."""

    step: TrainStep
    mesh: Mesh
    loss_terms: tuple[str, ...]
    schedule: Schedule
    evaluate: Hook
    every: Every
    total_steps: int
    patience: int = 0  # evaluations without a better score after which training stops; 0: never


def fit(run: Fit, state: TrainState, batches: Batches, *, window: Window, saver: Saver, writer: Writer) -> TrainState:
    """Trains up to `run.total_steps`; logs, evaluates, saves. A stop signal saves and raises Interrupted."""
    done = int(state.step)
    if _stale(run, saver, done):
        return state
    if done == 0:
        _evaluate(run, state, done, writer)
    with _StopSignal() as stop:
        ahead = _on_devices(batches, run.mesh, run.total_steps - done)
        for number, (tokens, batch, places) in enumerate(ahead, start=done + 1):
            state, metrics = run.step(state, batch)
            window.add(metrics, tokens)
            last = number == run.total_steps
            if number % run.every.log == 0 or last:
                window = _log(run, number, window, writer)
            figures = _evaluate(run, state, number, writer) if number % run.every.evaluate == 0 or last else None
            if number % run.every.save == 0 or last or figures or stop.name:
                if not _finite(state.params):
                    raise _diverged("the parameters are not finite", number)
                saver.save(state, loader=places, window=window.to_json(), figures=figures)
            if _stale(run, saver, number):
                console.print(f"stops early: no better score since step {saver.leader[0]:.0f}")
                break
            if stop.name:
                saver.wait()
                raise Interrupted(f"{stop.name}: stopped after step {number} and saved it; the same command goes on")
    saver.wait()
    return state


def _stale(run: Fit, saver: Saver, number: int) -> bool:
    """Whether the best score was too many evaluations ago."""
    return bool(run.patience and saver.leader) and number - saver.leader[0] >= run.patience * run.every.evaluate


def _on_devices(batches: Batches, mesh: Mesh, count: int) -> Iterator[tuple[int, Batch, Sequence[Sequence[int]]]]:
    """`count` batches: their real tokens, arrays, and the places after them; one more is on its way to the devices."""
    queue: deque[tuple[int, Batch, Sequence[Sequence[int]]]] = deque()
    for _ in range(count):
        batch = next(batches)
        queue.append((int(np.count_nonzero(batch["sequence"])), put_batch(batch, mesh), batches.places))
        if len(queue) > 1:
            yield queue.popleft()
    yield from queue


def _log(run: Fit, number: int, window: Window, writer: Writer) -> Window:
    figures = averages(window.metrics, run.loss_terms)
    seconds = time.perf_counter() - window.began
    rate = {"lr": float(run.schedule(number - 1)), "tokens_per_second": round(window.tokens / seconds, 1)}
    writer.write(number, {**figures, **rate})
    if not math.isfinite(figures["loss"]):
        raise _diverged(f"the loss is {figures['loss']}", number)
    return Window({}, began=time.perf_counter())


def _diverged(what: str, number: int) -> DataError:
    return DataError(
        f"{what} at step {number}: lower --optimizer.peak-lr or raise --optimizer.warmup; "
        "the checkpoints saved before are whole"
    )


def _evaluate(run: Fit, state: TrainState, number: int, writer: Writer) -> dict[str, float]:
    figures = run.evaluate(state)
    writer.write(number, figures, split="dev")
    return figures


def mean_metrics(step: Callable[[Any, Any], Metrics], state: TrainState, batches: Iterator[Any], mesh: Mesh) -> Metrics:
    """Metrics summed over all batches of an evaluation."""
    total: Metrics = {}
    for batch in batches:
        metrics = step(state.params, put_batch(batch, mesh))
        total = _sum(total, metrics) if total else metrics
    return total
