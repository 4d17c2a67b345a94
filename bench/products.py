"""Products of matrices of BERT-base on one core: XLA's own, XLA's with oneDNN, torch's. The most an encoder can reach.

    taskset -c 0 python bench/products.py [--torch PYTHON] [--rounds 3] [--out bench/results]

float32, rows x inputs times inputs x outputs, GFLOP/s as medians; the programs take turns (A B C A B C ...), each a
process of its own, and in all of them freed memory is kept. The table goes to OUT/products.md, all figures to
OUT/products.json.
"""

import json
import os
import statistics
import subprocess
import sys
import time

import results

SHAPES = [(rows, *sides) for rows in (1_024, 4_096) for sides in ((768, 768), (768, 3_072), (3_072, 768))]
REPEATS = 8


def main() -> None:
    """Runs the rounds, prints a table and writes it."""
    parser = results.parser(__doc__)
    parser.add_argument("--torch", type=results.python, metavar="PYTHON")
    parser.add_argument("--rounds", type=results.count, default=3)
    parser.add_argument("--worker", choices=("xla", "torch"), help=results.HIDDEN)
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
            one_thread = {"OMP_NUM_THREADS": "1", "XLA_FLAGS": f"--xla_cpu_multi_thread_eigen=false {flags}"}
            environment = os.environ | one_thread | dict(KEPT) | {"JAX_PLATFORMS": "cpu"}
            output = subprocess.check_output([python, __file__, "--worker", worker], env=environment)
            found[name].append(json.loads(output.splitlines()[-1]))
    rows = []
    for index, shape in enumerate(SHAPES):
        medians = [statistics.median(round_[index] for round_ in rounds) for rounds in found.values()]
        rows.append((" x ".join(map(str, shape)), *(f"{median:.0f}" for median in medians)))
    lines = ["GFLOP/s of one core", "", *results.table(("rows x inputs x outputs", *programs), rows)]
    versions = {name: results.versions(python) for name, (python, *_) in programs.items()}
    results.write(arguments.out, "products", lines, {"shapes": SHAPES, "gflops": found}, versions)


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
