"""The same step here and in other programs, side by side: CPU-seconds, start to first step, memory.

    python bench/peers.py TABLE [--torch PYTHON] [--flax PYTHON] [--keras PYTHON] [--rounds 5] [--out bench/results]

TABLE is one of: train-mini (8 x 128), train-base (8 x 128), inference-base (32 x 128), packed-mini (paragraphs
of novels: ours packed and padded, theirs padded), start-mini (cold and with the compilation cache). Each PYTHON is one
of an environment of its own: torch with transformers; transformers 4.57 or older, the last with Flax models, with flax
below 0.11 and jax below 0.7; keras-hub on jax. The table names their versions. A program that is not given is left out.

Each worker is a process with one core and one thread. They take turns (A B C C B A ...), so that what else the machine
does falls on all alike; medians of the CPU-seconds of a step are compared with `torch eager`, or else with bertjax.
None finds what an earlier start has compiled, but where that is said; the first step is counted from the start of the
process, with the processes that compile for it. The table goes to OUT/TABLE.md, all figures to OUT/TABLE.json.

"Freed memory kept" tells glibc what bertjax tells it by itself. "Masked positions gathered" has the same model and
weights, with the MLM head where tokens are masked, as bertjax and keras-hub have it.
"""

import argparse
import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import results
from batches import random_batch

from bertjax.data.packing import pack
from bertjax.data.tokenizer import Tokenizer
from bertjax.models.bert import PRESETS

WORKERS = Path(__file__).parent / "workers"


class Peer(NamedTuple):
    """A program: the option that gives its python, its worker, and how it is run."""

    option: str
    worker: str
    how: Mapping[str, Any] = MappingProxyType({})  # what the worker is told besides
    flags: str = ""  # XLA's
    memory: tuple[tuple[str, str], ...] = ()  # what glibc is told by the environment
    gathers: bool = False  # computes the logits of masked positions alone, where others have those of all


ONEDNN = (  # as in the README
    "--xla_cpu_use_onednn=true --xla_cpu_experimental_onednn_fusion_type=LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
)
KEPT = (("MALLOC_ARENA_MAX", "1"), ("MALLOC_MMAP_MAX_", "0"), ("MALLOC_TRIM_THRESHOLD_", str(1 << 62)))  # as heap.py
OURS, TORCH = Peer("", "with_bertjax.py", gathers=True), Peer("torch", "with_torch.py")
FLAX, KERAS = Peer("flax", "with_flax.py"), Peer("keras", "with_keras.py", gathers=True)
GATHERED = TORCH._replace(how={"gathered": True}, memory=KEPT, gathers=True)
PEERS = {
    "bertjax": OURS,
    "bertjax padded": OURS._replace(how={"packed": ""}),
    "bertjax with oneDNN": OURS._replace(flags=ONEDNN),
    "bertjax without oneDNN": OURS._replace(how={"flops": 0.0}),
    "torch eager": TORCH,
    "torch eager, freed memory kept": TORCH._replace(memory=KEPT),
    "torch eager, freed memory kept, masked positions gathered": GATHERED,
    "torch compiled": TORCH._replace(how={"compiled": True}),
    "transformers Flax": FLAX,
    "transformers Flax, freed memory kept": FLAX._replace(memory=KEPT),
    "keras-hub on JAX": KERAS,
    "keras-hub on JAX, freed memory kept": KERAS._replace(memory=KEPT),
}


class Table(NamedTuple):
    """What is measured: a size, the shape of a batch, steps in a turn, and who takes part."""

    preset: str
    rows: int
    length: int
    what: str
    steps: int
    peers: tuple[str, ...]
    packed: bool = False


EAGER = ("torch eager", "torch eager, freed memory kept")
TRAINING = ("bertjax", "bertjax with oneDNN", *EAGER, f"{EAGER[1]}, masked positions gathered")
KERAS_BOTH = ("keras-hub on JAX", "keras-hub on JAX, freed memory kept")
OTHERS = ("torch compiled", "transformers Flax", "transformers Flax, freed memory kept", *KERAS_BOTH)
INFERENCE = ("bertjax", "bertjax without oneDNN", *EAGER, *KERAS_BOTH)  # bertjax takes oneDNN by itself there
TABLES = {
    "train-mini": Table("mini", 8, 128, "training", 4, (*TRAINING, *OTHERS)),
    "train-base": Table("base", 8, 128, "training", 1, TRAINING),
    "inference-base": Table("base", 32, 128, "inference", 1, INFERENCE),
    "packed-mini": Table("mini", 32, 128, "training", 2, ("bertjax", "bertjax padded", *TRAINING[1:]), packed=True),
    "start-mini": Table("mini", 8, 128, "training", 1, ("bertjax", EAGER[0])),
}


def main() -> None:
    """Measures one table, prints it and writes it."""
    arguments = _arguments()
    table = TABLES[arguments.table]
    pythons = {"": sys.executable, **{name: getattr(arguments, name) for name in ("torch", "flax", "keras")}}
    there = [name for name in table.peers if pythons[PEERS[name].option]]
    with tempfile.TemporaryDirectory() as folder:
        cold = {"JAX_ENABLE_COMPILATION_CACHE": "0", "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor"}
        spec = write_batches(table, Path(folder)) | {"what": table.what, "env": cold}
        real = spec.pop("real_tokens")
        if starts := arguments.table.startswith("start"):
            found = start(there, pythons, spec, arguments.rounds, Path(folder))
        else:
            found = alternate(there, pythons, spec, table.steps, arguments.rounds)
    versions = {name: results.versions(pythons[PEERS[name].option]) for name in there}
    lines = start_table(found) if starts else step_table(found, real)
    lines += remarks(there, table)
    results.write(arguments.out, arguments.table, lines, {"real_tokens": real, "peers": found}, versions)


def _arguments() -> argparse.Namespace:
    parser = results.parser(__doc__)
    parser.add_argument("table", choices=list(TABLES))
    for name in ("torch", "flax", "keras"):
        parser.add_argument(f"--{name}", type=results.python, metavar="PYTHON")
    parser.add_argument("--rounds", type=results.count, default=5)
    return parser.parse_args()


def write_batches(table: Table, folder: Path) -> dict[str, Any]:
    """The same random batch for all, as files; with `packed` of rows as long as text has them, and ours packed."""
    model, rng = PRESETS[table.preset], np.random.default_rng(0)
    lengths = np.full(table.rows, table.length)
    if table.packed:
        lengths = rng.choice(paragraph_lengths(table.length), table.rows)
        rows = pack(lengths, length=table.length, rng=rng)
        packed = np.split(lengths[rows.members], rows.bounds[1:-1])
        np.savez(folder / "packed.npz", **random_batch(packed, table.length, model.vocab_size, rng))
    np.savez(folder / "padded.npz", **random_batch([[n] for n in lengths], table.length, model.vocab_size, rng))
    return {
        "model": asdict(replace(model, max_length=512)),
        "batch": str(folder / "padded.npz"),
        "packed": str(folder / "packed.npz") if table.packed else "",
        "real_tokens": int(lengths.sum()),
    }


def paragraph_lengths(most: int) -> np.ndarray:
    """Tokens of the paragraphs of two novels with [CLS] and [SEP], cut at `most`: a paragraph a row (line by line)."""
    text = gzip.decompress((Path(__file__).parents[1] / "sample_data/novels.txt.gz").read_bytes()).decode()
    paragraphs = [line for line in text.split("\n") if line.strip()]
    tokenizer = Tokenizer.train(paragraphs, 8_192, lowercase=True)
    return np.minimum([len(ids) + 2 for ids in tokenizer.encode_batch(paragraphs)], most)


class Worker:
    """A process that does steps when it is told to."""

    def __init__(self, name: str, python: str, spec: dict[str, Any]) -> None:
        peer = PEERS[name]
        about = {**spec, **peer.how, "cores": [max(os.sched_getaffinity(0))], "began": time.time()}
        command = [python, str(WORKERS / peer.worker), json.dumps(about)]
        threads = {"OMP_NUM_THREADS": "1", "XLA_FLAGS": f"--xla_cpu_multi_thread_eigen=false {peer.flags}"}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (as long as the process)
        self.process = subprocess.Popen(
            command,
            env={**inherited, **threads, **dict(peer.memory), **spec["env"]},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self.first = self._answer()

    def steps(self, count: int) -> dict[str, float]:
        """Seconds of a step, over so many."""
        assert self.process.stdin
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, float]:
        assert self.process.stdout
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        self._errors.seek(0)
        sys.exit(f"{self._errors.read()[-2_000:]}\n{self.process.args[1]} ended with {self.process.wait()}")

    def stop(self) -> None:
        """Ends the process."""
        self.process.communicate()
        self._errors.close()


def alternate(
    names: list[str], pythons: dict[str, Any], spec: dict[str, Any], steps: int, rounds: int
) -> dict[str, Any]:
    """Every worker is started and warm before any is timed; then they take turns, forth and back."""
    workers = {name: Worker(name, pythons[PEERS[name].option], spec) for name in names}
    found: dict[str, dict[str, Any]] = {name: {"first": workers[name].first, "turns": []} for name in names}
    for turn in range(rounds):
        for name in names if turn % 2 == 0 else reversed(names):
            found[name]["turns"].append(workers[name].steps(steps))
            print(f"turn {turn + 1} {name}: {found[name]['turns'][-1]['cpu']:.3f} CPU-s a step", file=sys.stderr)
    for worker in workers.values():
        worker.stop()
    return found


def start(names: list[str], pythons: dict[str, Any], spec: dict[str, Any], rounds: int, folder: Path) -> dict[str, Any]:
    """From the start of a process to the end of its first step; ours also with what an earlier start has compiled."""
    cases = {name: (name, spec) for name in names}
    cache = {"JAX_COMPILATION_CACHE_DIR": f"{folder}/cache", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    warm = {**spec, "env": cache | {"JAX_ENABLE_COMPILATION_CACHE": "1"}}
    cases["bertjax, warm cache"] = ("bertjax", warm)
    Worker("bertjax", pythons[""], warm).stop()
    found: dict[str, dict[str, Any]] = {case: {"turns": []} for case in cases}
    for turn in range(rounds):
        for case in cases if turn % 2 == 0 else reversed(cases):
            name, how = cases[case]
            worker = Worker(name, pythons[PEERS[name].option], how)
            worker.stop()
            found[case]["turns"].append(worker.first)
    return found


def step_table(found: dict[str, Any], real: int) -> list[str]:
    """Of steps: medians, against the base, and what the first one took."""
    rows = []
    for name, about in found.items():
        step = _median(about)
        peak = max(turn["peak_mib"] for turn in about["turns"])
        rows.append((*_row(found, name), f"{real / step:,.0f}", f"{peak:,.0f}", f"{about['first']['cpu']:.1f}"))
    head = (*HEAD, "real tokens/CPU-s", "peak MiB", "first step, CPU-s")
    return results.table(head, rows)


def start_table(found: dict[str, Any]) -> list[str]:
    """Of starts to the end of the first step."""
    peaks = {name: max(turn["peak_mib"] for turn in about["turns"]) for name, about in found.items()}
    return results.table((*HEAD, "peak MiB"), [(*_row(found, name), f"{peak:,.0f}") for name, peak in peaks.items()])


def remarks(names: list[str], table: Table) -> list[str]:
    """What makes programs of a table unlike."""
    if table.what == "inference":
        return ["", "All compute the encoder at every position and no head; keras-hub the pooler, too."]
    gather = [name for name in names if PEERS[name].gathers]
    others = [name for name in names if name not in gather]
    lines = ["", f"Logits at masked positions alone: {'; '.join(gather)}."]
    lines += [f"At all positions: {'; '.join(others)}."] if others else []
    lines += ["bertjax alone computes the last layer only where heads read."]
    lines += ["keras-hub has no NSP."] * any("keras" in name for name in names)
    return lines + ["Packed rows: bertjax and bertjax with oneDNN; all others are padded."] * table.packed


HEAD = ("program", "CPU-s, median (range)", "wall-s, median", "times as fast")


def _row(found: dict[str, Any], name: str) -> tuple[str, str, str, str]:
    base = _median(found[EAGER[0] if EAGER[0] in found else "bertjax"])
    spread = results.spread(turn["cpu"] for turn in found[name]["turns"])
    return name, spread, f"{_median(found[name], 'wall'):.3f}", f"{base / _median(found[name]):.2f}"


def _median(about: dict[str, Any], clock: str = "cpu") -> float:
    return statistics.median(turn[clock] for turn in about["turns"])


if __name__ == "__main__":
    main()
