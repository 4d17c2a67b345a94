"""Products of matrices of BERT-base on one core: XLA's own, XLA's with oneDNN, torch's. The most an encoder can reach.

    taskset -c 0 python bench/products.py [--torch PYTHON] [--rounds 3] [--out bench/results]

float32, rows x inputs times inputs x outputs, GFLOP/s as medians; the programs take turns (A B C A B C ...), each a
process of its own, and in all of them freed memory is kept. They go to OUT/products.json and, as a table, to
OUT/products.md.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

SHAPES = [(rows, *sides) for rows in (1_024, 4_096) for sides in ((768, 768), (768, 3_072), (3_072, 768))]
REPEATS = 8


def main() -> None:
    """Runs the rounds, prints a table and writes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", metavar="PYTHON")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    parser.add_argument("--worker", choices=("xla", "torch"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(in_xla() if arguments.worker == "xla" else in_torch()))
        return
    from peers import KEPT, ONEDNN  # not in a worker, which may be of an environment without what they need

    programs = {"XLA": (sys.executable, "xla", ""), "XLA with oneDNN": (sys.executable, "xla", ONEDNN)}
    if arguments.torch:
        programs["torch"] = (arguments.torch, "torch", "")
    found: dict[str, list[list[float]]] = {name: [] for name in programs}
    for _ in range(arguments.rounds):
        for name, (python, worker, flags) in programs.items():
            flags = f"--xla_cpu_multi_thread_eigen=false {flags}"
            environment = {
                **os.environ,
                "JAX_PLATFORMS": "cpu",
                "OMP_NUM_THREADS": "1",
                "XLA_FLAGS": flags,
                **dict(KEPT),
            }
            output = subprocess.check_output([python, __file__, "--worker", worker], env=environment)
            found[name].append(json.loads(output.splitlines()[-1]))
    lines = [
        "# products",
        "",
        f"| rows x inputs x outputs | {' | '.join(programs)} |",
        "|---|" + "---|" * len(programs),
    ]
    for index, shape in enumerate(SHAPES):
        medians = [statistics.median(round_[index] for round_ in rounds) for rounds in found.values()]
        lines.append(f"| {' x '.join(map(str, shape))} | {' | '.join(f'{median:.0f}' for median in medians)} |")
    command = f"python bench/products.py --torch PYTHON --rounds {arguments.rounds}"
    text = "\n".join([*lines, "", f"GFLOP/s of one core; `{command}`, load {os.getloadavg()[0]:.1f}"]) + "\n"
    (arguments.out / "products.json").write_text(
        json.dumps({"command": command, "shapes": SHAPES, "gflops": found}, indent=1) + "\n"
    )
    (arguments.out / "products.md").write_text(text)
    print(text)


def in_xla() -> list[float]:
    """GFLOP/s of every shape in a compiled program of its own."""
    import jax
    import jax.numpy as jnp

    found = []
    for rows, inputs, outputs in SHAPES:
        x, kernel = jnp.ones((rows, inputs)), jnp.ones((inputs, outputs))
        multiply = jax.jit(jnp.matmul)
        found.append(speed(lambda m=multiply, x=x, k=kernel: jax.block_until_ready(m(x, k)), rows * inputs * outputs))
    return found


def in_torch() -> list[float]:
    """The same by torch's linear layer, whose weights are outputs x inputs."""
    import torch

    torch.set_num_threads(1)
    found = []
    for rows, inputs, outputs in SHAPES:
        x, kernel = torch.ones(rows, inputs), torch.ones(outputs, inputs)
        found.append(speed(lambda x=x, k=kernel: torch.nn.functional.linear(x, k), rows * inputs * outputs))
    return found


def speed(function, products: int) -> float:  # noqa: ANN001 (a function without arguments)
    """GFLOP/s, median of REPEATS after the first."""
    function()
    seconds = []
    for _ in range(REPEATS):
        begun = time.process_time()
        function()
        seconds.append(time.process_time() - begun)
    return 2 * products / 1e9 / statistics.median(seconds)


if __name__ == "__main__":
    main()
