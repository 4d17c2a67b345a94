"""What the training loop itself costs a step on the host: everything but making the batch and the step on the device.

    python bench/host_overhead.py [--presets base large] [--rows 256] [--length 128] [--steps 300] [--rounds 5]

The loop of `bertjax pretrain` runs with a compiled step that gives back the state it was given, and with batches that
are there already: what is left is handing the batch to the device, the call, summing metrics, the log every 100 steps.
The state has as many arrays as that of the preset, each of one number, as what is given up is not copied. Beside it
batches are handed over alone, and the step is called alone. CPU-seconds, in turn, medians. The table goes to
OUT/host-overhead.md, all figures to OUT/host-overhead.json.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import results
from batches import random_batch
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bertjax.contracts import Metrics
from bertjax.heap import collect_seldom, keep_freed
from bertjax.models.bert import PRESETS
from bertjax.objectives import mlm
from bertjax.train.guard import Guard
from bertjax.train.log import Writer
from bertjax.train.loop import Every, Fit, fit
from bertjax.train.mesh import MeshConfig, make_mesh, put, put_batch
from bertjax.train.optim import Optimizer
from bertjax.train.profile import Profiler
from bertjax.train.state import TrainState, planned_state
from bertjax.train.step import TOKENS, WATCHED, TrainStep
from bertjax.train.window import Rates

TERMS = ("mlm_loss", "nsp_loss")
Host = dict[str, np.ndarray]


class Ready:
    """Batches that cost nothing."""

    places = ((0, 0, 0),)

    def __init__(self, batch: Host) -> None:
        self._batch = batch

    def numbers(self, step: int, places: Any) -> list[int]:  # noqa: ANN401 (places in the data)
        """No step goes bad, so nobody asks for its examples."""
        raise AssertionError

    def __next__(self) -> Host:
        return self._batch


class Unsaved:
    """Keeps no checkpoint, not even the last."""

    leader = ()

    def save(self, state: TrainState, **about: Any) -> None:  # noqa: ANN401 (what a Saver is given)
        """Does nothing."""

    def check(self) -> None:
        """Nothing is under way that could have failed."""

    def wait(self) -> None:
        """There is nothing to wait for."""


@dataclass(frozen=True)
class Idle:
    """A step that only gives back the state, and a state of as many arrays as that of a preset."""

    step: TrainStep
    planned: TrainState
    mesh: Mesh

    @classmethod
    def of(cls, preset: str, mesh: Mesh) -> "Idle":
        """As `bertjax pretrain` would train it."""
        recipe = Optimizer()
        planned = planned_state(mlm.Config().build(PRESETS[preset]), recipe.build(1_000), mesh)
        return cls(idle_step(planned, mesh, recipe), planned, mesh)

    def state(self) -> TrainState:
        """At step 0."""
        return jax.tree.map(lambda leaf: put(np.zeros((1,) * leaf.ndim, leaf.dtype), leaf.sharding), self.planned)

    def calls(self, steps: int, batch: Host) -> float:
        """CPU-seconds of a call."""
        state, placed = self.state(), put_batch(batch, self.mesh)
        return spent(steps, lambda state: self.step(state, placed)[0], state)

    def loop(self, steps: int, batch: Host) -> float:
        """CPU-seconds of a step in the loop."""
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder)
            run = Fit(
                step=self.step,
                mesh=self.mesh,
                loss_terms=TERMS,
                evaluate=lambda state: {"loss": 1.0},
                every=Every(log=100, evaluate=10 * steps, save=10 * steps),
                total_steps=steps,
                rates=Rates(lambda step: 1e-4, peak_flops=0),
                flops_per_token=lambda length: 1e9,
                profiler=Profiler(0, 0, out / "profile"),
                guard=Guard(),
            )
            state, writer = self.state(), Writer(out, total_steps=steps, start_step=0, title="bench")
            began = time.process_time()
            fit(run, state, Ready(batch), begun={}, saver=Unsaved(), writer=writer)  # type: ignore[arg-type]
            seconds = time.process_time() - began
            writer.close()
        return seconds / steps


def idle_step(planned: TrainState, mesh: Mesh, recipe: Optimizer) -> TrainStep:
    """Compiled as `make_train_step` does it, but for the work."""

    def step(state: TrainState, batch: Any, numbers: jax.Array) -> tuple[TrainState, Metrics]:  # noqa: ANN401 (a batch)
        one = (jnp.ones(()), jnp.ones(()))
        return state, dict.fromkeys((*TERMS, "mlm_accuracy", "nsp_accuracy", "grad_norm", WATCHED, TOKENS), one)

    everywhere = NamedSharding(mesh, PartitionSpec())
    placed = jax.tree.map(lambda leaf: leaf.sharding, planned)
    program = jax.jit(
        step,
        donate_argnums=0,
        keep_unused=True,
        in_shardings=(placed, None, everywhere),
        out_shardings=(placed, everywhere),
    )
    return TrainStep(program, mesh, recipe.schedule(1_000))


def spent(steps: int, one: Callable[[Any], Any], before: Any = None) -> float:  # noqa: ANN401 (what one gives the next)
    """CPU-seconds of one of so many, each of which is given what the one before gave, and is waited for at the end."""
    began = time.process_time()
    for _ in range(steps):
        before = one(before)
    jax.block_until_ready(before)
    return (time.process_time() - began) / steps


def main() -> None:
    """Measures all in turn and writes the table."""
    parser = results.parser(__doc__)
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=["base", "large"])
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=results.count, default=5)
    arguments = parser.parse_args()
    keep_freed()  # as the command line does
    collect_seldom()
    steps, mesh = arguments.steps, make_mesh(MeshConfig(data=1))
    rows = [[arguments.length]] * arguments.rows
    batch = random_batch(rows, arguments.length, 30_522, np.random.default_rng(0))
    parts = {"handing over a batch": lambda: spent(steps, lambda _: jax.block_until_ready(put_batch(batch, mesh)))}
    for preset in arguments.presets:
        idle = Idle.of(preset, mesh)
        idle.loop(2, batch)  # compiles
        arrays = len(jax.tree.leaves(idle.planned))
        parts[f"the call of {preset}'s step, {arrays} arrays"] = partial(idle.calls, steps, batch)
        parts[f"the loop with {preset}"] = partial(idle.loop, steps, batch)
    found: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(arguments.rounds):
        for name, measure in parts.items():
            found[name].append(measure())
    table = [(name, results.spread((1e3 * each for each in seconds), 2)) for name, seconds in found.items()]
    lines = [f"Batches of {arguments.rows} x {arguments.length}, {steps} steps.", ""]
    lines += results.table(("", "CPU-ms a step, median (range)"), table)
    results.write(arguments.out, "host-overhead", lines, {"cpu_seconds": found})


if __name__ == "__main__":
    main()
