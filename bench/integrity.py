"""Damage done to a real checkpoint at random, and what the manifest costs beside a restore.

    python bench/integrity.py [--trials 1000] [--preset base] [--out bench/results]

A trial flips a bit of, cuts short or deletes one file of a checkpoint of a tiny run, adds one, or removes a part, and
reads the run as `pretrain` does when it resumes: the damage must be told, or the state must come back bit for bit.
Times are CPU-seconds, the least of three. The table goes to OUT/integrity.md, all figures to OUT/integrity.json.
"""

import hashlib
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import results

from bertjax.errors import DataError
from bertjax.models import bert
from bertjax.objectives import mlm
from bertjax.train import manifest
from bertjax.train.checkpoint import Checkpoints
from bertjax.train.log import console
from bertjax.train.mesh import MeshConfig, make_mesh
from bertjax.train.optim import Optimizer
from bertjax.train.saver import Saver
from bertjax.train.state import TrainState, init_state

KINDS = ("flip", "flip", "flip", "cut", "cut", "delete", "add", "remove part")


def saved(model: bert.Config, run: Path) -> tuple[TrainState, Path]:
    """A state whose moments are not zero, and the folder of its checkpoint."""
    state = init_state(mlm.Config().build(model), Optimizer().build(10), seed=0, mesh=make_mesh(MeshConfig(data=1)))
    rng = np.random.default_rng(0)

    def noise(x: jax.Array) -> jax.Array:
        return x + rng.standard_normal(x.shape, np.float32) * 1e-3 if x.dtype == np.float32 else x

    state = jax.tree.map(noise, state)
    saver = Saver(run, keep_last=1, best="-loss", constant={"a": list(range(50))})
    saver.save(state, loader=[(0, 1, 2)], log={}, figures={"loss": 1.0})
    saver.wait()
    saver.close()
    return state, run / "checkpoints" / "0"


def damage(folder: Path, rng: random.Random) -> tuple[str, str]:
    """One random change: its kind and the file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    kind, path = rng.choice(KINDS), rng.choice(files)
    if kind == "remove part":
        path = rng.choice(sorted(entry for entry in folder.iterdir() if entry.is_dir()))
        shutil.rmtree(path)
    elif kind == "delete":
        path.unlink()
    elif kind == "add":
        path = path.with_name(f"{path.name}.{rng.randrange(10**6)}")
        path.write_bytes(rng.randbytes(rng.randrange(99)))
    else:
        data = bytearray(path.read_bytes())
        if kind == "cut":
            del data[rng.randrange(len(data)) :]
        else:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
    return kind, str(path.relative_to(folder))


def mend(damaged: Path, folder: Path, name: str) -> None:
    """Undoes a change."""
    if (folder / name).is_dir():
        shutil.copytree(folder / name, damaged / name)
    elif (folder / name).exists():
        shutil.copyfile(folder / name, damaged / name)
    else:
        (damaged / name).unlink()


def trials(count: int, work: Path) -> dict[str, Any]:
    """How many of the changes were told, did no harm, or were silent."""
    model = bert.Config(vocab_size=128, width=32, layers=1, heads=2, mlp_width=64, max_length=32)
    state, folder = saved(model, work / "whole")
    like, want = abstract(state), _digest(state)
    extra = Checkpoints(work / "whole").extra(0)
    rng, outcomes, silent, missed = random.Random(0), Counter[str](), [], Counter[str]()
    run = work / "run"
    damaged = shutil.copytree(folder, run / "checkpoints" / "0")
    for _ in range(count):
        kind, name = damage(damaged, rng)
        try:
            step = Checkpoints(run).latest_good()
            same = _digest(step.state(like)) == want and step.extra == extra
            outcome = "harmless" if same else "silent"
            missed[name] += same
        except DataError as error:
            named = "no checkpoint is whole" in str(error) or "holds no finished checkpoint" in str(error)
            outcome = "told" if named else "told late"
        outcomes[f"{kind}: {outcome}"] += 1
        silent += [f"{kind} {name}"] if outcome == "silent" else []
        mend(damaged, folder, name)
    return {"trials": count, "outcomes": dict(sorted(outcomes.items())), "silent": silent, "harmless in": dict(missed)}


def abstract(state: TrainState) -> TrainState:
    """What a checkpoint of a state is restored into."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def _digest(state: TrainState) -> str:
    return hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state))).hexdigest()


def cost(preset: str, work: Path) -> dict[str, Any]:
    """CPU-seconds of a restore, and of comparing it with its manifest."""
    state, folder = saved(bert.PRESETS[preset], work / preset)
    like, size = abstract(state), sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    del state
    files = [path for path in folder.rglob("*") if path.is_file()]

    def sha256() -> None:
        for path in files:
            with path.open("rb") as file:
                hashlib.file_digest(file, "sha256")

    def restore() -> None:
        found = Checkpoints(work / preset)
        found._steps._whole[0] |= manifest.parts(folder)  # as if it had been compared
        jax.block_until_ready(found.state(0, like))

    times = {
        "restore": _least(restore),
        "compare": _least(lambda: manifest.faults(folder, manifest.parts(folder))),
        "compare with SHA-256": _least(sha256),
        "write the manifest": _least(lambda: manifest.write(folder)),
    }
    return {"preset": preset, "GiB in memory": round(size / 2**30, 2), "files": len(files), "CPU-s": times}


def _least(act: Callable[[], object]) -> float:
    times = []
    for _ in range(3):
        began = time.process_time()
        act()
        times.append(time.process_time() - began)
    return round(min(times), 3)


def lines(found: dict[str, Any]) -> list[str]:
    """The figures for people."""
    trial, costs = found["damage"], found["cost"]
    where = ", ".join(f"`{name}` ({count})" for name, count in trial["harmless in"].items())
    silent = f"Silent: {len(trial['silent'])} of {trial['trials']:,}. No harm, restored bit for bit: {where}."
    size = f"{costs['preset']}, {costs['GiB in memory']} GiB, {costs['files']} files:"
    seconds = costs["CPU-s"]
    times = [(name, value, f"{value / seconds['restore']:.1%}") for name, value in seconds.items()]
    outcomes = results.table(("change: outcome", "trials"), trial["outcomes"].items())
    return [*outcomes, "", silent, "", size, "", *results.table(("", "CPU-s", "of a restore"), times)]


def main() -> None:
    """Measures both and writes them."""
    parser = results.parser(__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--preset", default="base", choices=sorted(bert.PRESETS))
    options = parser.parse_args()
    console.quiet = True
    with tempfile.TemporaryDirectory() as work:
        found = {"damage": trials(options.trials, Path(work)), "cost": cost(options.preset, Path(work))}
    results.write(options.out, "integrity", lines(found), found)


if __name__ == "__main__":
    main()
