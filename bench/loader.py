"""Rows ready for a training step, per CPU-second: read, planned, packed and corrupted; against datasets + torch.

    python bench/loader.py --data DIR [--peer PYTHON] [--lengths 128 512] [--rounds 3] [--out bench/results]

DIR is made by `bertjax prepare`. PYTHON is one of an environment of its own with datasets, torch and transformers;
without it only our variants run. The peer reads the same tokens, cut into full rows and kept as an Arrow data set,
through DataCollatorForLanguageModeling (single tokens) and a DataLoader without workers. Each variant runs in a process
of its own, in turn (A B C A B C ...): one epoch, of the peer one of the first shard. CPU-seconds of all threads after
the imports; medians. Only real tokens are counted. The table goes to OUT/loader.md, all figures to OUT/loader.json.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import results

KINDS = {"tokens": "token", "whole words": "word", "spans": "span"}
PEER = "datasets + torch"
ASSUMED = 700_000  # tokens a second that one H200 may take: of BERT-base, at 37% of its peak; not measured


def main() -> None:
    """Runs the rounds and writes a line for each length and variant."""
    arguments = _arguments()
    if arguments.worker:
        measure = measure_peer if arguments.worker == PEER else measure_ours
        print(json.dumps(measure(arguments)))
        return
    speeds: dict[int, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        variants = [*KINDS, PEER] if arguments.peer else list(KINDS)
        for length in arguments.lengths:
            found: dict[str, list[float]] = {name: [] for name in variants}
            for _ in range(arguments.rounds):
                for name in variants:
                    python = arguments.peer if name == PEER else sys.executable
                    command = [python, *sys.argv, "--worker", name, "--length", str(length), "--folder", folder]
                    command += ["--ours", sys.executable]
                    found[name].append(json.loads(subprocess.check_output(command)))
            speeds[length] = found
    pythons = {"bertjax": sys.executable} | ({PEER: arguments.peer} if arguments.peer else {})
    versions = {name: results.versions(python) for name, python in pythons.items()}
    results.write(arguments.out, "loader", lines(speeds), {"tokens_per_cpu_second": speeds}, versions)


def lines(speeds: dict[int, dict[str, list[float]]]) -> list[str]:
    """For each length and variant tokens per CPU-second, cores that would feed an H200, times the peer."""
    rows = []
    for length, found in speeds.items():
        peer = statistics.median(found[PEER]) if PEER in found else 0
        for name, runs in found.items():
            speed = statistics.median(runs)
            against = f"{speed / peer:.1f}" if peer else ""
            rows.append(
                (length, name, results.spread((run / 1e6 for run in runs), 2), f"{ASSUMED / speed:.2f}", against)
            )
    head = ("length", "rows of", "M tokens/CPU-s", f"cores for {ASSUMED:,} tokens/s", f"times {PEER}")
    note = f"{ASSUMED:,} tokens a second is what an H200 is assumed to take of BERT-base, at 37% of its peak."
    return [*results.table(head, rows), "", note]


def _arguments() -> argparse.Namespace:
    parser = results.parser(__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--peer", type=results.python)
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--rounds", type=results.count, default=3)
    parser.add_argument("--ours", default=sys.executable, help=results.HIDDEN)
    for name in ("--worker", "--length", "--folder"):
        parser.add_argument(name, help=results.HIDDEN)
    return parser.parse_args()


def measure_ours(arguments: argparse.Namespace) -> float:
    """Real tokens per CPU-second of packed NSP rows, planning and reading included."""
    import grain  # noqa: F401 (the loader imports it when it is made)
    import numpy as np

    from bertjax.data.loader import Loader
    from bertjax.data.masking import Masking, Vocab
    from bertjax.data.mixture import Mixture
    from bertjax.data.sources import CorpusSource
    from bertjax.data.tokenizer import Tokenizer
    from bertjax.objectives import mlm

    length = int(arguments.length)
    vocab = Vocab.of(Tokenizer.load(Path(arguments.data) / "tokenizer"))
    objective = mlm.Config(masking=Masking(kind=KINDS[arguments.worker]))
    source = CorpusSource(
        arguments.data,
        "train",
        length=length,
        batch_size=2**15 // length,
        seed=0,
        vocab=vocab,
        planner=objective.planner(),
        corruption=objective.corruption(vocab, length),
        steps=1000,
        packing=True,
    )
    began = time.process_time()
    tokens = sum(int(np.count_nonzero(batch["sequence"])) for batch in Loader(Mixture((source,)), epochs=1))
    return tokens / (time.process_time() - began)


def measure_peer(arguments: argparse.Namespace) -> float:
    """Tokens per CPU-second of full rows; nothing is planned, and every sequence is what stands there."""
    from datasets import load_from_disk
    from torch import set_num_threads
    from torch.utils.data import DataLoader
    from transformers import BertTokenizerFast, DataCollatorForLanguageModeling

    set_num_threads(1)
    length = int(arguments.length)
    rows = Path(arguments.folder) / f"rows-{length}"
    if not rows.exists():
        write_rows(arguments, rows)
    tokenizer = BertTokenizerFast(f"{arguments.data}/tokenizer/vocab.txt")
    batches = DataLoader(
        load_from_disk(str(rows)),
        batch_size=2**15 // length,
        shuffle=True,
        collate_fn=DataCollatorForLanguageModeling(tokenizer),
    )
    began = time.process_time()
    tokens = sum(batch["input_ids"].numel() for batch in batches)
    return tokens / (time.process_time() - began)


def write_rows(arguments: argparse.Namespace, out: Path) -> None:
    """The tokens of the first training shard as an Arrow data set of full rows; our reader runs in our environment."""
    import numpy as np
    from datasets import Dataset

    code = "import sys; from bertjax.data.shards import read_shard; sys.stdout.buffer.write("
    code += f"read_shard({str(Path(arguments.data) / 'train-00000.array_record')!r}).tokens.astype('i4').tobytes())"
    tokens = np.frombuffer(subprocess.check_output([arguments.ours, "-c", code]), np.int32)
    length = int(arguments.length)
    Dataset.from_dict({"input_ids": tokens[: len(tokens) // length * length].reshape(-1, length)}).save_to_disk(out)


if __name__ == "__main__":
    main()
