"""What more devices and more processes cost: CPU-seconds of a training step, weak and strong.

    python bench/scaling.py [--preset mini] [--rows 8] [--length 128] [--rounds 3] [--out bench/results]

Devices are virtual ones of one process; processes are joined by jax.distributed over localhost, a device each. All run
on the same cores, so the work of a step is what it is and only what is added shows: with the same rows in all (strong)
CPU-seconds would stay as they are, with the same rows a device (weak) they would grow as the devices do. Settings take
turns; each is a start of its own, the median of its steps counts. The table goes to OUT/scaling.md, all
figures to OUT/scaling.json.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time

import results

from bertjax.heap import collect_seldom, keep_freed

COUNTS = {"devices": (1, 2, 4, 8), "processes": (1, 2, 4)}


def main() -> None:
    """Measures every setting in turn and writes the table."""
    arguments = _arguments()
    if arguments.worker:
        print(json.dumps(measure(arguments)))
        return
    settings = [(kind, count, weak) for kind, counts in COUNTS.items() for count in counts for weak in (False, True)]
    found: dict[tuple[str, int, bool], list[float]] = {setting: [] for setting in settings}
    for turn in range(arguments.rounds):
        for setting in settings if turn % 2 == 0 else reversed(settings):
            found[setting].append(sum(launch(*setting)))
            print(*setting, f"{found[setting][-1]:.3f}", file=sys.stderr)
    write(arguments, found)


def _arguments() -> argparse.Namespace:
    parser = results.parser(__doc__)
    parser.add_argument("--preset", choices=results.PRESETS, default="mini")
    parser.add_argument("--rows", type=int, default=8, help="of a batch (strong), of a device (weak)")
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=results.count, default=3)
    for name in ("--devices", "--process", "--processes", "--port", "--batch"):
        parser.add_argument(name, type=int, help=results.HIDDEN)
    parser.add_argument("--worker", action="store_true", help=results.HIDDEN)
    return parser.parse_args()


def launch(kind: str, count: int, weak: bool) -> list[float]:
    """CPU-seconds of a step of each process of a setting."""
    arguments = _arguments()
    processes, devices = (count, 1) if kind == "processes" else (1, count)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    batch = arguments.rows * (count if weak else 1)
    shared = f"--worker --devices {devices} --processes {processes} --port {port} --batch {batch}".split()
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_COMPILATION_CACHE_DIR": "",
    }
    running = [
        subprocess.Popen(
            [sys.executable, *sys.argv, *shared, "--process", str(number)], env=environment, stdout=subprocess.PIPE
        )
        for number in range(processes)
    ]
    return [json.loads(process.communicate()[0].splitlines()[-1]) for process in running]


def measure(arguments: argparse.Namespace) -> float:
    """CPU-seconds of a step in this process: the median after the first, which compiles."""
    keep_freed()  # as the command line does
    collect_seldom()
    import jax
    import numpy as np
    from batches import random_batch
    from training import Training

    from bertjax.models.bert import PRESETS
    from bertjax.objectives import mlm
    from bertjax.train.mesh import MeshConfig, local_rows, make_mesh, put_batch

    if arguments.processes > 1:
        jax.distributed.initialize(f"localhost:{arguments.port}", arguments.processes, arguments.process)
    model, mesh = PRESETS[arguments.preset], make_mesh(MeshConfig())
    rows = [[arguments.length]] * arguments.batch
    whole = random_batch(rows, arguments.length, model.vocab_size, np.random.default_rng(0))
    batch = {name: array[local_rows(arguments.batch, mesh)] for name, array in whole.items()}
    training = Training(mlm.Config().build(model), mesh)
    spent = []
    for _ in range(arguments.steps + 1):
        began = time.process_time()
        training.step(put_batch(batch, mesh))
        spent.append(time.process_time() - began)
    return statistics.median(spent[1:])


def write(arguments: argparse.Namespace, found: dict[tuple[str, int, bool], list[float]]) -> None:
    """OUT/scaling.json and .md: CPU-seconds beside those of one device, and beside what the rows alone would take."""
    rows = []
    for kind, counts in COUNTS.items():
        strong, weak = ({n: statistics.median(found[kind, n, w]) for n in counts} for w in (False, True))
        for n in counts:
            more = strong[n] / strong[1], weak[n] / n / weak[1]
            rows.append((f"{n} {kind}", f"{strong[n]:.3f}", f"{more[0]:.2f}", f"{weak[n]:.3f}", f"{more[1]:.2f}"))
    head = ("", "strong, CPU-s a step", "x one", "weak, CPU-s a step", "x one, a device")
    lines = [f"BERT-{arguments.preset}, {arguments.rows} x {arguments.length}", "", *results.table(head, rows)]
    seconds = {f"{kind} {n} {'weak' if w else 'strong'}": values for (kind, n, w), values in found.items()}
    results.write(arguments.out, "scaling", lines, {"cpu_seconds": seconds})


if __name__ == "__main__":
    main()
