"""Where the CPU-seconds from the start of a process to its first step go, with nothing compiled before.

    taskset -c 0 python bench/first_step.py [--preset mini] [--rounds 3] [--out bench/results]

Each round is a process of its own. The step is that of `bertjax pretrain`, 8 x 128, by AdamW. "Kernels" are the fused
loops that XLA makes one by one; `perf record --call-graph dwarf,65000` of such a process tells what of. The table goes
to OUT/first-step-PRESET.md, all figures to OUT/first-step-PRESET.json.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import results

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "0"


def main() -> None:
    """Runs the rounds, prints a table and writes it."""
    parser = results.parser(__doc__)
    parser.add_argument("--preset", choices=results.PRESETS, default="mini")
    parser.add_argument("--rounds", type=results.count, default=3)
    parser.add_argument("--worker", action="store_true", help=results.HIDDEN)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(measure(arguments.preset)))
        return
    runs = []
    for number in range(arguments.rounds):
        output = subprocess.check_output([sys.executable, __file__, "--worker", "--preset", arguments.preset])
        runs.append(json.loads(output.splitlines()[-1]))
        print(f"round {number + 1}: {runs[-1]}", file=sys.stderr)
    *parts, kernels = runs[0]
    rows = [(name, results.spread((run[name] for run in runs), 2)) for name in parts]
    lines = [*results.table(("part", "CPU-s, median (range)"), rows), "", f"{kernels}: {runs[0][kernels]}"]
    results.write(arguments.out, f"first-step-{arguments.preset}", lines, {"runs": runs})


def measure(preset: str) -> dict[str, float]:
    """CPU-seconds of each part in this process, and how many kernels the step has."""
    from bertjax.heap import collect_seldom, keep_freed

    keep_freed()
    collect_seldom()
    import jax
    import numpy as np
    from batches import random_batch

    from bertjax.models.bert import PRESETS
    from bertjax.objectives import mlm
    from bertjax.train import state, step
    from bertjax.train.mesh import MeshConfig, abstract_batch, make_mesh, put_batch
    from bertjax.train.optim import Optimizer

    parts = {"imports": time.process_time()}

    def timed(name: str, function: Callable[[], Any]) -> Any:  # noqa: ANN401 (what the function gives)
        begun = time.process_time()
        found = jax.block_until_ready(function())
        parts[name] = time.process_time() - begun
        return found

    recipe, model = Optimizer(kind="adamw"), PRESETS[preset]
    mesh, objective, optimizer = make_mesh(MeshConfig(data=1)), mlm.Config().build(model), recipe.build(1_000)
    batch = random_batch([[128]] * 8, 128, model.vocab_size, np.random.default_rng(0))
    shapes = timed("model traced", lambda: state.planned_state(objective, optimizer, mesh))
    first = timed(
        "first parameters drawn and placed", lambda: state.init_state(objective, optimizer, seed=0, mesh=mesh)
    )
    train = step.make_train_step(objective, optimizer, mesh, schedule=recipe.schedule(1_000))
    lowered = timed("step traced and lowered", lambda: train.lower(shapes, abstract_batch(batch, 8, mesh)))
    program = timed("step compiled", lowered.compile)
    timed("first step run", lambda: program(first, put_batch(batch, mesh), recipe.schedule(1_000).numbers))
    return parts | {"kernels of the step": program.as_text().count(" fusion(")}


if __name__ == "__main__":
    main()
