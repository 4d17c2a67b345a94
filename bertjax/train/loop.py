"""The loop: batches in, a trained state out; what happens now and then is a hook."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bertjax.contracts import Batch, Metrics
from bertjax.errors import DataError
from bertjax.train import hosts
from bertjax.train.checkpoint import Saver
from bertjax.train.log import Writer, averages, console
from bertjax.train.mesh import put_batch
from bertjax.train.optim import Schedule
from bertjax.train.step import TrainState, TrainStep
from bertjax.train.stop import Interrupted, StopSignal

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


@dataclass(frozen=True)
class Every:
    """How often things happen, in steps."""

    log: int
    evaluate: int
    save: int


@dataclass
class Window:
    """Metrics summed on the device since the last line of the log; saved with the state, so a resumed log is equal."""

    metrics: Metrics
    tokens: float = 0.0  # of this process
    began: float = 0.0

    def add(self, metrics: Metrics, tokens: float) -> None:
        """One more step; nothing is fetched from the device."""
        self.metrics = _sum(self.metrics, metrics) if self.metrics else metrics
        self.tokens += tokens

    def to_json(self) -> dict[str, list[float]]:
        """Exact: float32 survives JSON."""
        return {name: [float(t), float(w)] for name, (t, w) in jax.device_get(self.metrics).items()}

    @classmethod
    def from_json(cls, saved: dict[str, list[float]]) -> "Window":
        """The inverse of `to_json`; time and tokens count anew."""
        metrics: Any = {name: (np.float32(t), np.float32(w)) for name, (t, w) in saved.items()}
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
    with StopSignal() as stop:
        ahead = _on_devices(batches, run.mesh, run.total_steps - done)
        for number, (tokens, batch, places) in enumerate(ahead, start=done + 1):
            state, metrics = run.step(state, batch)
            window.add(metrics, tokens)
            last, asked = number == run.total_steps, stop.after(number)
            if number % run.every.log == 0 or last:
                window = _log(run, number, window, writer)
            figures = _evaluate(run, state, number, writer) if number % run.every.evaluate == 0 or last else None
            if number % run.every.save == 0 or last or figures or asked:
                if not _finite(state.params):
                    raise _diverged("the parameters are not finite", number)
                saver.save(state, loader=places, window=window.to_json(), figures=figures)
            if _stale(run, saver, number):
                console.print(f"stops early: no better score since step {saver.leader[0]:.0f}")
                break
            if asked and not last:
                saver.wait()
                hosts.stopped_together()
                raise Interrupted(f"{asked}: stopped after step {number} and saved it; the same command goes on")
    saver.wait()
    return state


def _stale(run: Fit, saver: Saver, number: int) -> bool:
    """Whether the best score was too many evaluations ago."""
    return bool(run.patience and saver.leader) and number - saver.leader[0] >= run.patience * run.every.evaluate


def _on_devices(batches: Batches, mesh: Mesh, count: int) -> Iterator[tuple[float, Batch, Sequence[Sequence[int]]]]:
    """`count` batches: real tokens (this process's share), arrays, places after them.

    One more is on its way to the devices.
    """
    queue: deque[tuple[float, Batch, Sequence[Sequence[int]]]] = deque()
    for _ in range(count):
        batch = next(batches)
        placed = put_batch(batch, mesh)
        # Where processes share rows (a mesh whose tensor axis spans them) each counts a part of their tokens.
        share = len(placed["sequence"]) / (len(batch["sequence"]) * jax.process_count())
        queue.append((np.count_nonzero(batch["sequence"]) * share, placed, batches.places))
        if len(queue) > 1:
            yield queue.popleft()
    yield from queue


def _log(run: Fit, number: int, window: Window, writer: Writer) -> Window:
    figures = averages(window.metrics, run.loss_terms)
    seconds = time.perf_counter() - window.began
    rate = {"lr": float(run.schedule(number - 1)), "tokens_per_second": round(hosts.total(window.tokens) / seconds, 1)}
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
