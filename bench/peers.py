"""The same step here and in other programs, side by side: CPU-seconds, start to first step, memory.

    python bench/peers.py TABLE [--torch PYTHON] [--flax PYTHON] [--keras PYTHON] [--rounds 5] [--out bench/results]

TABLE is one of: train-mini (8 x 128), train-base (8 x 128), inference-base (32 x 128), packed-mini (paragraphs
of novels: ours packed, theirs padded), start-mini (cold and with the compilation cache). Each PYTHON is one of an
environment of its own: torch with transformers 5; transformers 4.57 with flax below 0.11 and jax below 0.7; keras-hub
on jax. A program that is not given is left out.

Each worker is a process with one core and one thread. They take turns (A B C C B A ...), so that what else the machine
does falls on all alike; medians of the CPU-seconds of a step are compared with `torch eager`, or else with bertjax.
The figures, with machine, versions, load and command, go to OUT/TABLE.json and, as a table, to OUT/TABLE.md.
"""

import argparse
import gzip
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from batches import random_batch

from bertjax.data.packing import pack
from bertjax.data.tokenizer import Tokenizer
from bertjax.models.bert import PRESETS

WORKERS = Path(__file__).parent / "workers"


class Peer(NamedTuple):
    """A program: the option that gives its python, its worker, whether what runs eagerly is compiled, and flags."""

    option: str
    worker: str
    compiled: bool = False
    flags: str = ""  # XLA's
    memory: tuple[tuple[str, str], ...] = ()  # what glibc is told by the environment


ONEDNN = (  # as in the README
    "--xla_cpu_use_onednn=true --xla_cpu_experimental_onednn_fusion_type=LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
)
KEPT = (("MALLOC_ARENA_MAX", "1"), ("MALLOC_MMAP_MAX_", "0"), ("MALLOC_TRIM_THRESHOLD_", str(1 << 62)))  # as heap.py
PEERS = {
    "bertjax": Peer("", "with_bertjax.py"),
    "bertjax with oneDNN": Peer("", "with_bertjax.py", flags=ONEDNN),
    "torch eager": Peer("torch", "with_torch.py"),
    "torch eager, freed memory kept": Peer("torch", "with_torch.py", memory=KEPT),
    "torch compiled": Peer("torch", "with_torch.py", compiled=True),
    "transformers Flax": Peer("flax", "with_flax.py"),
    "keras-hub on JAX": Peer("keras", "with_keras.py"),
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


ALL = tuple(PEERS)
OURS, TORCH = ALL[:2], ALL[2:4]
TABLES = {
    "train-mini": Table("mini", 8, 128, "training", 4, ALL),
    "train-base": Table("base", 8, 128, "training", 1, (*OURS, *TORCH)),
    "inference-base": Table("base", 32, 128, "inference", 1, (OURS[0], *TORCH, "keras-hub on JAX")),  # oneDNN's already
    "packed-mini": Table("mini", 32, 128, "training", 2, (*OURS, *TORCH), packed=True),
    "start-mini": Table("mini", 8, 128, "training", 1, ("bertjax", "torch eager")),
}


def main() -> None:
    """Measures one table, prints it and writes it."""
    arguments = _arguments()
    table = TABLES[arguments.table]
    pythons = {"": sys.executable, **{name: getattr(arguments, name) for name in ("torch", "flax", "keras")}}
    there = [name for name in table.peers if pythons[PEERS[name].option]]
    with tempfile.TemporaryDirectory() as folder:
        spec = write_batches(table, Path(folder)) | {"what": table.what}
        real = spec.pop("real_tokens")
        if arguments.table.startswith("start"):
            found = start(there, pythons, spec, arguments.rounds, Path(folder))
        else:
            found = alternate(there, pythons, spec, table.steps, arguments.rounds)
    figures = {
        "table": arguments.table,
        "command": " ".join(["python", *(word if word not in pythons.values() else "PYTHON" for word in sys.argv)]),
        "machine": {"cpu": cpu_name(), "cores": os.cpu_count(), "load": os.getloadavg()},
        "versions": {name: versions(pythons[PEERS[name].option]) for name in there},
        "real_tokens": real,
        "peers": found,
    }
    write(arguments.out / arguments.table, figures)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=list(TABLES))
    for name in ("torch", "flax", "keras"):
        parser.add_argument(f"--{name}", metavar="PYTHON")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
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
        about = {**spec, "compiled": peer.compiled, "cores": [os.cpu_count() - 1], "began": time.time()}
        command = [python, str(WORKERS / peer.worker), json.dumps(about)]
        threads = {"OMP_NUM_THREADS": "1", "XLA_FLAGS": f"--xla_cpu_multi_thread_eigen=false {peer.flags}"}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
        self.process = subprocess.Popen(
            command,
            env={**inherited, **threads, **dict(peer.memory), **spec.get("env", {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
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
        sys.exit(f"worker died: {' '.join(map(str, self.process.args))}")

    def stop(self) -> None:
        """Ends the process."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


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
    cases = {name: (name, {}) for name in names}
    cache = {"JAX_COMPILATION_CACHE_DIR": str(folder / "cache"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    cases["bertjax, warm cache"] = ("bertjax", cache)
    Worker("bertjax", pythons[""], {**spec, "env": cache}).stop()
    found: dict[str, dict[str, Any]] = {case: {"turns": []} for case in cases}
    for turn in range(rounds):
        for case in cases if turn % 2 == 0 else reversed(cases):
            name, env = cases[case]
            off = {} if env else {"JAX_ENABLE_COMPILATION_CACHE": "0"}
            worker = Worker(name, pythons[PEERS[name].option], {**spec, "env": env or off})
            worker.stop()
            found[case]["turns"].append({"cpu": worker.first["first_cpu"], "wall": worker.first["first_wall"]})
    return found


def write(path: Path, figures: dict[str, Any]) -> None:
    """PATH.json with everything, PATH.md and the screen with medians."""
    found, real = figures["peers"], figures["real_tokens"]
    base = "torch eager" if "torch eager" in found else "bertjax"
    medians = {name: statistics.median(turn["cpu"] for turn in about["turns"]) for name, about in found.items()}
    lines = ["| program | CPU-s, median (range) | times as fast | real tokens/CPU-s | peak MiB | first step, CPU-s |"]
    lines.append("|---|---|---|---|---|---|")
    for name, about in found.items():
        cpu = sorted(turn["cpu"] for turn in about["turns"])
        peak = max(turn.get("peak_mib", 0) for turn in about["turns"])
        first = about.get("first", {}).get("first_cpu", medians[name])
        lines.append(
            f"| {name} | {medians[name]:.3f} ({cpu[0]:.3f} to {cpu[-1]:.3f}) | {medians[base] / medians[name]:.2f} "
            f"| {real / medians[name]:,.0f} | {peak:,.0f} | {first:.1f} |"
        )
    machine = figures["machine"]
    notes = [f"{machine['cpu']}, one core each, load {machine['load'][0]:.1f}; `{figures['command']}`"]
    notes += [
        f"{name}: {', '.join(f'{k} {v}' for k, v in about.items())}" for name, about in figures["versions"].items()
    ]
    text = "\n".join([f"# {figures['table']}", "", *lines, "", *(f"- {note}" for note in notes)]) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps(figures, indent=1) + "\n")
    path.with_suffix(".md").write_text(text)
    print(text)


def versions(python: str) -> dict[str, str]:
    """Of what decides the speed, in the environment of a python."""
    names = ["jax", "jaxlib", "flax", "torch", "transformers", "keras", "keras-hub"]
    code = (
        "import importlib.metadata as m, json\n"
        f"print(json.dumps({{d.name.lower(): d.version for d in m.distributions() if d.name.lower() in {names}}}))"
    )
    return json.loads(subprocess.check_output([python, "-c", code]))


def cpu_name() -> str:
    """The model of this machine's processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
