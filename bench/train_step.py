"""The pretraining step on this machine: tokens a second, seconds from start to first step, peak memory.

    python bench/train_step.py [--preset mini] [--vocab-size 30522] [--batch-size 8] [--length 128] [--rounds 3]

Each variant runs in a process of its own, in turn (A B C A B C ...); medians over the rounds are compared with the
first variant. All rows are full, so every token is a real one. Variants: what `bertjax pretrain` does ("gathered"),
logits at every position in place of the masked ones ("all positions"), and no dropout. The table goes to
OUT/train-step-PRESET.md, all figures to OUT/train-step-PRESET.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

import results

from bertjax.heap import collect_seldom, keep_freed

VARIANTS = ("gathered", "all positions", "no dropout")


def main() -> None:
    """Runs the rounds and prints a line for each variant."""
    arguments = _arguments()
    if arguments.worker:
        print(json.dumps(measure(arguments)))
        return
    found: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    for _ in range(arguments.rounds):
        for name in VARIANTS:
            command = [sys.executable, *sys.argv, "--worker", name, "--began", repr(time.time())]
            found[name].append(json.loads(subprocess.check_output(command)))
    medians = {
        name: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for name, runs in found.items()
    }
    first = medians[VARIANTS[0]]["cpu_seconds"]
    rows = [
        (
            name,
            results.spread(run["cpu_seconds"] for run in found[name]),
            f"{m['cpu_seconds'] / first:.2f}",
            f"{m['tokens_per_second']:,.0f}",
            f"{m['gflops']:.1f}",
            f"{m['first_step_seconds']:.1f}",
            f"{m['peak_mib']:,.0f}",
        )
        for name, m in medians.items()
    ]
    head = ("variant", "CPU-s a step", "x the first", "tokens/s", "GFLOP/CPU-s", "s to the first step", "peak MiB")
    shape = f"vocabulary {arguments.vocab_size}, {arguments.batch_size} x {arguments.length}"
    lines = [f"BERT-{arguments.preset}, {shape}", "", *results.table(head, rows)]
    results.write(arguments.out, f"train-step-{arguments.preset}", lines, {"runs": found})


def _arguments() -> argparse.Namespace:
    parser = results.parser(__doc__)
    parser.add_argument("--preset", choices=results.PRESETS, default="mini")
    parser.add_argument("--vocab-size", type=int, default=30_522)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--rounds", type=results.count, default=3)
    parser.add_argument("--worker", help=results.HIDDEN)
    parser.add_argument("--began", type=float, help=results.HIDDEN)
    return parser.parse_args()


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """One variant in this process, from its start to `--steps` steps after the compiled one."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    keep_freed()  # as the command line does
    collect_seldom()
    from dataclasses import replace

    import numpy as np
    from batches import random_batch
    from training import Training

    from bertjax.models import bert
    from bertjax.objectives import mlm
    from bertjax.train.mesh import MeshConfig, make_mesh, put_batch

    rows, length, config = arguments.batch_size, arguments.length, mlm.Config()
    model = replace(bert.PRESETS[arguments.preset], vocab_size=arguments.vocab_size)
    if arguments.worker == "no dropout":
        model = replace(model, dropout=0.0, attention_dropout=0.0)
    slots = length if arguments.worker == "all positions" else config.masking.slots(length)
    mesh, full = make_mesh(MeshConfig()), [[length]] * rows
    batch = random_batch(full, length, model.vocab_size, np.random.default_rng(0), slots)
    training = Training(config.build(model), mesh)
    training.step(put_batch(batch, mesh))
    first = time.time() - arguments.began
    cpu, wall = [], []
    for _ in range(arguments.steps):
        marks = time.process_time(), time.perf_counter()
        training.step(put_batch(batch, mesh))
        cpu.append(time.process_time() - marks[0])
        wall.append(time.perf_counter() - marks[1])
    seconds, read = statistics.median(cpu), min(1.0, (slots + 1) / length)
    return {
        "cpu_seconds": seconds,
        "tokens_per_second": rows * length / statistics.median(wall),
        "gflops": rows * length * model.flops_per_token(length, slots / length, read) / seconds / 1e9,
        "first_step_seconds": first,
        "peak_mib": results.peak_mib(),
    }


if __name__ == "__main__":
    main()
