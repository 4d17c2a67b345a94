"""The loop: batches in, a trained state out; what happens now and then is a hook."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bertjax.contracts import Batch, Metrics, Params
from bertjax.errors import DataError
from bertjax.train import hosts
from bertjax.train.guard import Guard, Places, Watch
from bertjax.train.hang import moved
from bertjax.train.log import Writer, console
from bertjax.train.mesh import put_batch
from bertjax.train.profile import Profiler
from bertjax.train.replicas import check_replicas
from bertjax.train.saver import Saver
from bertjax.train.state import TrainState
from bertjax.train.step import TOKENS, WATCHED, TrainStep
from bertjax.train.stop import Interrupted, StopSignal
from bertjax.train.window import LateLog, Rates, Window, sum_metrics

Hook = Callable[[TrainState], dict[str, float]]  # an evaluation: figures to write and to choose checkpoints by


class Batches(Protocol):
    """Host batches with places to take up again from."""

    @property
    def places(self) -> Places:
        """Where the next batch is, in each source of the data."""
        ...

    def numbers(self, step: int, before: Any) -> list[list[int]]:  # noqa: ANN401 (places of its own kind)
        """Of each source the examples in the batch of a step, by the places before it."""
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


_finite = jax.jit(lambda tree: jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)])))


@dataclass(frozen=True)
class Fit:
    """The fixed parts of a training run."""

    step: TrainStep
    mesh: Mesh
    loss_terms: tuple[str, ...]
    evaluate: Hook
    every: Every
    total_steps: int
    rates: Rates
    flops_per_token: Callable[[int], float]  # of a row of so many tokens
    profiler: Profiler
    guard: Guard
    patience: int = 0  # evaluations without a better score after which training stops; 0: never


def fit(
    run: Fit, state: TrainState, batches: Batches, *, begun: Mapping[str, Any], saver: Saver, writer: Writer
) -> TrainState:
    """Trains up to `run.total_steps`; logs, evaluates, saves. A stop signal saves and raises Interrupted.

    `begun` is the `extra` of the checkpoint that is gone on from, or empty.
    """
    spent = writer.spent
    done, window = int(state.step), Window.from_json(begun.get("window", {}), spent.now())
    if _stale(run, saver, done):
        return state
    if done == 0:
        _evaluate(run, state, done, writer)
    watch = Watch(run.guard, writer, batches.numbers, begun.get("watch", {}))
    with StopSignal() as stop, LateLog(writer, watch, run.rates, run.loss_terms) as late:
        ahead, before = _on_devices(batches, run.mesh, run.total_steps - done), batches.places
        compiled, asked = set[tuple[int, ...]](), None
        for number in range(done + 1, run.total_steps + 1):
            with spent.waiting(asked):
                batch, places = next(ahead)
            shape = batch["tokens"].shape
            if compiles := shape not in compiled:
                compiled.add(shape)
                late.flush(window)
            with run.profiler.step(), spent.on("compile", state.step) if compiles else nullcontext():
                state, metrics = run.step(state, batch)
            asked, writer.reached = state.step, number
            moved()
            run.profiler.after_step(state)
            late.flush(window)
            watch.add(number, metrics.pop(WATCHED), before, places)
            before = places
            window.add(metrics, metrics.pop(TOKENS)[0], run.flops_per_token(shape[-1]))
            last, figures = number == run.total_steps, None
            if last or number % run.every.log == 0:
                window = late.put(number, window)
                saver.check()
            if last or number % run.every.evaluate == 0:
                late.flush(window)
                figures = _evaluate(run, state, number, writer)
            stopped_by = stop.after_step()
            if last or figures or stopped_by or number % run.every.save == 0:
                late.flush(window)
                watch.settle()
                with spent.on("save", state.step):
                    _check(state, run.mesh, number)
                    log = {"window": window.to_json(), "watch": watch.to_json()}
                    saver.save(state, loader=places, log=log, figures=figures, before=writer.flush)
                moved()
            if _stale(run, saver, number):
                console.print(f"stops early: no better score since step {saver.leader[0]:.0f}")
                break
            if stopped_by:
                with spent.on("save"):
                    saver.wait()
                hosts.stopped_together()
                raise Interrupted(f"{stopped_by}: stopped after step {number} and saved it; the same command goes on")
    with spent.on("save"):
        saver.wait()
    return state


def _check(state: TrainState, mesh: Mesh, number: int) -> None:
    """Raises where a state is not to be saved."""
    check_replicas(state, mesh, number)
    if not _finite(state.params):
        raise DataError(f"the parameters after step {number} are not finite; lower --optimizer.peak-lr")


def _stale(run: Fit, saver: Saver, number: int) -> bool:
    """Whether the best score was too many evaluations ago."""
    return bool(run.patience and saver.leader) and number - saver.leader[0] >= run.patience * run.every.evaluate


def _on_devices(batches: Batches, mesh: Mesh, count: int) -> Iterator[tuple[Batch, Places]]:
    """`count` batches, and the places after them; one more is on its way to the devices."""
    queue: deque[tuple[Batch, Places]] = deque()
    for _ in range(count):
        batch = put_batch(next(batches), mesh)
        queue.append((batch, batches.places))
        if len(queue) > 1:
            yield queue.popleft()
    yield from queue


def _evaluate(run: Fit, state: TrainState, number: int, writer: Writer) -> dict[str, float]:
    with writer.spent.on("evaluate", state.step):
        figures = run.evaluate(state)
    writer.write(number, figures, split="dev")
    return figures


def mean_metrics(
    step: Callable[[Params, Batch], Metrics], state: TrainState, batches: Iterator[Mapping[str, np.ndarray]], mesh: Mesh
) -> Metrics:
    """Metrics summed over all batches of an evaluation."""
    total: Metrics = {}
    for batch in batches:
        metrics = step(state.params, put_batch(batch, mesh))
        moved()
        total = sum_metrics(total, metrics) if total else metrics
    return total
