"""Kills pretraining and fine-tuning with SIGKILL at random moments, and looks whether anything of it can be seen.

    python bench/kills.py [--kills 200] [--out bench/results]

A run is killed, taken up again, killed ... until it ends, then another is begun, until there were so many kills; a
moment is drawn from the first step after a start on. Compared with a run left alone: every logged figure, every batch
and the parameters, optimizer and places at the end, bit for bit. Counted are also the steps done that a kill lost, and
starts that failed. Then a run of 30 steps over 3 epochs is killed once in each of them. Processes are forked from one
that has made the imports, and compiled programs are kept, so that a start costs a second or two. The table goes to
OUT/kills.md, all figures to OUT/kills.json.
"""

import hashlib
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import results

sys.path.insert(0, str(results.ROOT / "tests"))

from zygote import Child, Zygote

# Runs in every child: a line for each batch, with its step and its bytes; and, where asked to, an end in one of them.
TRACE = """
import hashlib, os, signal
from bertjax import session
trace = open(os.environ["TRACE"], "a", buffering=1)
print("start", file=trace)
class Traced(session.Phases):
    def __next__(self):
        batch = super().__next__()
        parts = b"".join(name.encode() + batch[name].tobytes() for name in sorted(batch))
        print(self._done, hashlib.sha256(parts).hexdigest(), file=trace)
        if self._done == int(os.environ.get("KILL_AT", 0)):
            os.kill(os.getpid(), signal.SIGKILL)
        return batch
session.Phases = Traced
"""
RECIPES = {
    "pretrain.py": """
from bertjax.config import Pretrain
from bertjax.models import bert
from bertjax.train.mesh import MeshConfig
from bertjax.train.optim import Optimizer

def config() -> Pretrain:
    return Pretrain(
        model=bert.Config(width=32, layers=2, heads=2, mlp_width=64, max_length=40),
        optimizer=Optimizer(peak_lr=3e-3), mesh=MeshConfig(data=1), steps=100, batch_size=8, length=32,
        log_every=3, eval_every=25, eval_batches=2, save_every=5,
    )
""",
    "finetune.py": """
from bertjax.config import Finetune
from bertjax.train.mesh import MeshConfig
from bertjax.train.optim import Optimizer

def config() -> Finetune:
    return Finetune(
        epochs=12, batch_size=8, length=24, log_every=3, mesh=MeshConfig(data=1),
        optimizer=Optimizer(kind="adamw", peak_lr=3e-3, warmup=0.1),
    )
""",
}
VARIES = ("seconds", "tokens_per_second", "gflops_per_second", "data_wait", "spent")


class Run(NamedTuple):
    """A command without its --out, and the steps between two of its checkpoints."""

    command: tuple[str, ...]
    save_every: int


def main() -> None:
    """Everything, and a table of it."""
    parser = results.parser(__doc__)
    parser.add_argument("--kills", type=int, default=200, help="of pretraining and fine-tuning together")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"  # compiles twice as fast
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        zygote = Zygote(folder)
        try:
            runs = prepared(zygote, folder / "home")
            found = {name: kill(zygote, folder / name, one, arguments.kills // 2, rng) for name, one in runs.items()}
            found["every step"] = every_step(zygote, folder / "every", runs["pretrain"], range(1, 31))
            found["with --save-sync"] = every_step(
                zygote, folder / "sync", runs["pretrain"], range(3, 31, 3), sync=True
            )
        finally:
            zygote.close()
    head = ("run", "kills", "runs", "starts that failed", "differences", "steps lost, most", "seconds")
    rows = [
        (
            name,
            *(row[what] for what in ("kills", "runs", "failed")),
            len(row["differences"]),
            f"{row['lost']}, saved every {row['save_every']}",
            f"{row['seconds']:.0f}",
        )
        for name, row in found.items()
    ]
    results.write(arguments.out, "kills", results.table(head, rows), {"found": found})
    sys.exit(any(row["failed"] or row["differences"] for row in found.values()))


def prepared(zygote: Zygote, home: Path) -> dict[str, Run]:
    """Recipes, a prepared corpus and a task of made-up words, and the two runs."""
    rng = random.Random(1)
    home.mkdir()
    words = [f"{a}{b}" for a in ("ka", "lo", "mi", "nu", "re", "so", "ti") for b in ("ban", "den", "fir", "gol", "hus")]

    def sentence(some: list[str]) -> str:
        return " ".join(rng.choices(some, k=rng.randint(3, 9)))

    documents = ["\n".join(sentence(words) + "." for _ in range(rng.randint(4, 12))) for _ in range(40)]
    (home / "corpus.txt").write_text("\n\n".join(documents) + "\n")
    for split, count in (("train", 64), ("dev", 16)):
        rows = [f"{'spam' if i % 3 else 'ham'}\t{sentence(words[i % 3 :: 2])}\n" for i in range(count)]
        (home / f"{split}.tsv").write_text("".join(rows))
    for name, text in RECIPES.items():
        (home / name).write_text(text)
    prepare = ["prepare", "--corpus", home / "corpus.txt", "--out", home / "data", "--vocab-size", "120"]
    done(zygote.start(*prepare, "--held-out", "0.15", "--shard-tokens", "150"))
    pretrain = ("pretrain", str(home / "pretrain.py"), "--data", str(home / "data"))
    done(zygote.start(*pretrain, "--steps", "5", "--out", home / "short"))
    task = ("--task", "sms_spam", "--from", str(home / "short"), "--data", str(home))
    return {"pretrain": Run(pretrain, 5), "finetune": Run(("finetune", str(home / "finetune.py"), *task), 8)}


def done(child: Child) -> None:
    """Waits for the end, which must be good."""
    code, _ = child.ended(600)
    assert code == 0, child.err


def kill(zygote: Zygote, folder: Path, run: Run, kills: int, rng: random.Random) -> dict[str, Any]:
    """So many kills of runs of one command, each run compared with one that was left alone."""
    began, alone = time.monotonic(), folder / "alone"
    done(start(zygote, run, alone))
    found: dict[str, Any] = {"kills": 0, "runs": 0, "failed": 0, "lost": 0, "differences": []}
    while found["kills"] < kills:
        out = folder / f"run-{found['runs']}"
        found["runs"] += 1
        while True:
            code = killed(start(zygote, run, out), out, rng.expovariate(4.0) if found["kills"] < kills else None)
            found["kills"] += code == -signal.SIGKILL
            found["failed"] += code not in (0, -signal.SIGKILL)
            if code != -signal.SIGKILL:
                break
        found["differences"] += differences(alone, out)
        found["lost"] = max(found["lost"], *lost(out))
    return {**found, "save_every": run.save_every, "seconds": time.monotonic() - began}


def every_step(zygote: Zygote, folder: Path, run: Run, steps: Iterable[int], *, sync: bool = False) -> dict[str, Any]:
    """A run of 30 steps over 3 epochs, killed once in each of these steps."""
    options = ["--steps", "30", "--save-every", "2", "--log-every", "1", *(["--save-sync"] if sync else [])]
    short = Run((*run.command, *options), 2)
    began, alone, out = time.monotonic(), folder / "alone", folder / "run"
    done(start(zygote, short, alone))
    found: dict[str, Any] = {"kills": 0, "runs": 1, "failed": 0}
    for step in steps:
        code, _ = start(zygote, short, out, KILL_AT=str(step)).ended()
        found["kills"] += code == -signal.SIGKILL
        found["failed"] += code != -signal.SIGKILL
    done(start(zygote, short, out))
    epochs = 1 + places(out)[0][0]
    found |= {"differences": differences(alone, out), "lost": max(lost(out)), "epochs": epochs}
    return {**found, "save_every": 2, "seconds": time.monotonic() - began}


def start(zygote: Zygote, run: Run, out: Path, **environment: str) -> Child:
    """The command as it would be given again and again."""
    out.parent.mkdir(parents=True, exist_ok=True)
    return zygote.start(*run.command, "--out", out, before=TRACE, TRACE=f"{out}.trace", **environment)


def killed(child: Child, out: Path, after: float | None) -> int | None:
    """The end of a process that is killed so many seconds after its first step; None: it is left alone."""
    trace = Path(f"{out}.trace")
    if after is not None:
        known = trace.read_text().count("start") if trace.exists() else 0
        while child.code is None and (len(s := starts(trace)) <= known or len(s[-1]) < 3):
            time.sleep(0.002)
        end = time.monotonic() + after
        while child.code is None and time.monotonic() < end:
            time.sleep(0.001)
        child.send_signal(signal.SIGKILL)
    code, _ = child.ended(600)
    return code


def starts(trace: Path) -> list[list[tuple[int, str]]]:
    """Of every start the steps of which it fetched the batches, with these batches' hashes."""
    found: list[list[tuple[int, str]]] = []
    for line in trace.read_text().split("\n")[:-1] if trace.exists() else []:
        if line == "start":
            found.append([])
        else:
            step, digest = line.split()
            found[-1].append((int(step), digest))
    return found


def lost(out: Path) -> list[int]:
    """Of every kill the steps that had been done and came again: a batch is fetched a step ahead of its use."""
    kept = [one for one in starts(Path(f"{out}.trace")) if one]
    return [0, *(max(0, before[-1][0] - 2 - after[0][0] + 1) for before, after in pairwise(kept))]


def differences(alone: Path, out: Path) -> list[str]:
    """What is not the same in two runs."""
    wrong = [] if figures(alone) == figures(out) else ["figures"]
    if places(alone) != places(out):
        wrong.append("places")
    if state(alone) != state(out):
        wrong.append("state")
    (whole,) = starts(Path(f"{alone}.trace"))
    batches = dict(whole)
    for one in starts(Path(f"{out}.trace")):
        steps = [step for step, _ in one]
        if steps and steps != list(range(steps[0], steps[0] + len(steps))):
            wrong.append("order of the batches")
        if any(batches.get(step) != digest for step, digest in one):
            wrong.append("batches")
    return wrong


def figures(out: Path) -> list[Any]:
    """Every logged figure to its last bit."""
    from bertjax.train.log import ENDED, read_metrics

    def exact(value: Any) -> Any:  # noqa: ANN401 (a JSON value)
        return value.hex() if isinstance(value, float) else value

    lines = [line for line in read_metrics(out) if line["split"] != ENDED]
    return [[(name, exact(value)) for name, value in line.items() if name not in VARIES] for line in lines]


def places(out: Path) -> Any:  # noqa: ANN401 (a JSON value)
    """Where the last checkpoint stands in the data."""
    from bertjax.train.checkpoint import Checkpoints

    checkpoints = Checkpoints(out)
    return checkpoints.extra(checkpoints.latest)["loader"]


def state(out: Path) -> str:
    """A hash over every array of the last checkpoint."""
    digest = hashlib.sha256()
    for name, array in sorted(_arrays(out)):
        digest.update(name.encode() + str(array.dtype).encode() + array.tobytes())
    return digest.hexdigest()


def _arrays(out: Path) -> Iterator[tuple[str, Any]]:
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    from bertjax.train.checkpoint import Checkpoints

    checkpoints = Checkpoints(out)
    step = out / "checkpoints" / str(checkpoints.latest)
    for name in [*checkpoints.parts(checkpoints.latest), "train"]:
        tree = ocp.StandardCheckpointer().restore((step / name).absolute())
        for path, array in jax.tree_util.tree_leaves_with_path(tree):
            yield name + jax.tree_util.keystr(path), np.asarray(array)


if __name__ == "__main__":
    main()
