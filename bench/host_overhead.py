"""What the training loop itself costs a step on the host: everything but making the batch and the step on the device.

    python bench/host_overhead.py [--rows 256] [--length 128] [--steps 300] [--rounds 5] [--out bench/results]

The loop of `bertjax pretrain` runs with a step that gives back what it was given, and with batches that are there
already: what is left is handing the batch to the device, the call, summing metrics, the log every 100 steps. Beside it
the same batches are handed over alone. CPU-seconds, A B A B, medians. The table goes to OUT/host-overhead.md, all
figures to OUT/host-overhead.json.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import results
from batches import random_batch

from bertjax.heap import collect_seldom, keep_freed
from bertjax.train.guard import Guard
from bertjax.train.log import Writer
from bertjax.train.loop import Every, Fit, fit
from bertjax.train.mesh import MeshConfig, make_mesh, put_batch
from bertjax.train.profile import Profiler
from bertjax.train.state import TrainState
from bertjax.train.step import TOKENS, WATCHED
from bertjax.train.window import Rates


class Ready:
    """Batches that cost nothing."""

    places = ((0, 0, 0),)

    def __init__(self, batch: dict[str, np.ndarray]) -> None:
        self._batch = batch

    def numbers(self, step: int, places: Any) -> list[int]:  # noqa: ANN401 (places in the data)
        """No step goes bad, so nobody asks for its examples."""
        raise AssertionError

    def __next__(self) -> dict[str, np.ndarray]:
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


def main() -> None:
    """Measures both in turn and writes the table."""
    parser = results.parser(__doc__)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    keep_freed()  # as the command line does
    collect_seldom()
    mesh = make_mesh(MeshConfig(data=1))
    rows = [[arguments.length]] * arguments.rows
    batch = random_batch(rows, arguments.length, 30_522, np.random.default_rng(0))
    loop: list[float] = []
    alone: list[float] = []
    for _ in range(arguments.rounds):
        loop.append(run_loop(batch, mesh, arguments.steps))
        began = time.process_time()
        for _ in range(arguments.steps):
            jax.block_until_ready(put_batch(batch, mesh))
        alone.append((time.process_time() - began) / arguments.steps)
    spent = {"the loop": loop, "of which handing over the batch": alone}
    rows = [(name, results.spread((1e3 * each for each in seconds), 2)) for name, seconds in spent.items()]
    lines = [f"Batches of {arguments.rows} x {arguments.length}, {arguments.steps} steps.", ""]
    lines += results.table(("", "CPU-ms a step, median (range)"), rows)
    results.write(arguments.out, "host-overhead", lines, {"cpu_seconds": spent})


def run_loop(batch: dict[str, np.ndarray], mesh: Any, steps: int) -> float:  # noqa: ANN401 (a Mesh)
    """CPU-seconds a step."""
    names = ("mlm_loss", "nsp_loss", "mlm_accuracy", "nsp_accuracy", WATCHED, TOKENS)
    numbers = {name: (jnp.ones(()), jnp.ones(())) for name in names}
    state = TrainState(jnp.zeros((), jnp.int32), {"w": jnp.ones(8)}, {}, jnp.zeros(2, jnp.uint32))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        run = Fit(
            step=lambda state, batch: (state, dict(numbers)),  # type: ignore[arg-type]
            mesh=mesh,
            loss_terms=("mlm_loss", "nsp_loss"),
            evaluate=lambda state: {"loss": 1.0},
            every=Every(log=100, evaluate=10 * steps, save=10 * steps),
            total_steps=steps,
            rates=Rates(lambda step: 1e-4, peak_flops=0),
            flops_per_token=lambda length: 1e9,
            profiler=Profiler(0, 0, out / "profile"),
            guard=Guard(),
        )
        writer = Writer(out, total_steps=steps, start_step=0, title="bench")
        began = time.process_time()
        fit(run, state, Ready(batch), begun={}, saver=Unsaved(), writer=writer)  # type: ignore[arg-type]
        spent = time.process_time() - began
        writer.close()
    return spent / steps


if __name__ == "__main__":
    main()
