"""Where the CPU-seconds from the start of a process to its first step go, with nothing compiled before.

    taskset -c 0 python bench/first_step.py [--preset mini] [--rounds 3] [--out bench/results]

Each round is a process of its own. The step is that of `bertjax pretrain`, 8 x 128. "Kernels" are the fused loops that
XLA makes one by one; `perf record --call-graph dwarf,65000` of such a process tells what of. The medians go to
OUT/first-step-PRESET.json and, as a table, to OUT/first-step-PRESET.md.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "0"


def main() -> None:
    """Runs the rounds, prints a table and writes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="mini")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(measure(arguments.preset)))
        return
    runs = []
    for number in range(arguments.rounds):
        output = subprocess.check_output([sys.executable, __file__, "--worker", "--preset", arguments.preset])
        runs.append(json.loads(output.splitlines()[-1]))
        print(f"round {number + 1}: {runs[-1]}", file=sys.stderr)
    medians = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    lines = [f"# first-step-{arguments.preset}", "", "| part | CPU-s, median (range) |", "|---|---|"]
    for name, median in medians.items():
        all_of_it = [run[name] for run in runs]
        lines.append(f"| {name} | {median:.2f} ({min(all_of_it):.2f} to {max(all_of_it):.2f}) |")
    command = f"python bench/first_step.py --preset {arguments.preset} --rounds {arguments.rounds}"
    text = "\n".join([*lines, "", f"`{command}`, load {os.getloadavg()[0]:.1f}"]) + "\n"
    path = arguments.out / f"first-step-{arguments.preset}"
    path.with_suffix(".json").write_text(json.dumps({"command": command, "runs": runs}, indent=1) + "\n")
    path.with_suffix(".md").write_text(text)
    print(text)


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
