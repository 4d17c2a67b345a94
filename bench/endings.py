"""SIGTERM at random moments of pretraining, of one process and of one of two: seconds to the end, code, what is kept.

    python bench/endings.py [--one 50] [--two 20] [--out bench/results]

A run is taken up after each signal until it is done, then another begins; each that is done must have logged, to the
last bit, what the undisturbed one did. Rounds that are in OUT/endings.json already are not made again, so that it can
be made in pieces, and the page tells which are of an earlier one; the table is OUT/endings.md. Every second start
compiles anew, that there is something to hit. The processes are forked from one that has made its imports.
"""

import json
import random
import re
import shutil
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import results
from kills import Child, Zygote, figures  # it puts tests/ on the path
from processes import free_port

from bertjax.train.stop import last_step

RECIPE = """
from bertjax.config import Pretrain
from bertjax.models import bert
from bertjax.train.mesh import MeshConfig
from bertjax.train.optim import Optimizer

def config() -> Pretrain:
    return Pretrain(
        model=bert.Config(width=32, layers=2, heads=2, mlp_width=64, max_length=64),
        optimizer=Optimizer(peak_lr=1e-3), mesh=MeshConfig(data=-1), steps=100, batch_size=8, length=64,
        log_every=1, eval_every=20, eval_batches=10, save_every=5,
    )
"""


def phase(said: str) -> str:
    """What was under way, by the last line that was said."""
    last = next((line for line in reversed(said.splitlines()) if re.match(r"pretrain:|step ", line)), "")
    for text, name in ((" dev:", "after an evaluation"), ("step", "training"), ("pretrain:", "compiling, evaluating")):
        if text in last:
            return name
    return "starting"


class Rounds:
    """Signals to runs of so many processes."""

    def __init__(self, home: Path, zygote: Zygote, count: int) -> None:
        self.home, self.zygote, self.count = home, zygote, count
        self.run = home / f"run-{count}"
        self.undisturbed = home / f"undisturbed-{count}"
        began = time.monotonic()
        ended = [child.ended(600) for child in self.start(self.undisturbed, cached=True)]
        assert {code for code, _ in ended} == {0}, ended
        self.lasts = time.monotonic() - began

    def start(self, out: Path, *, cached: bool) -> list[Child]:
        """The command, with a cache of programs that is shared or empty."""
        cache = self.home / "cache" if cached else tempfile.mkdtemp(dir=self.home)
        before = f"import jax; jax.config.update('jax_compilation_cache_dir', {str(cache)!r})"
        command = ["pretrain", self.home / "recipe.py", "--data", self.home / "data", "--out", out]
        if self.count == 1:
            return [self.zygote.start(*command, before=before)]
        return self.zygote.several(self.count, *command, port=free_port(), before=before)

    def round(self, number: int) -> dict[str, Any] | None:
        """A start and a signal; None where the run was done before it."""
        moment, stopped = random.uniform(0, self.lasts), random.randrange(self.count)
        children = self.start(self.run, cached=number % 2 == 0)
        end = time.monotonic() + moment
        while time.monotonic() < end and children[0].code is None:
            time.sleep(0.01)
        said = children[0].err
        children[stopped].send_signal(signal.SIGTERM)
        began = time.monotonic()
        codes = [child.ended(60)[0] for child in children]
        seconds = time.monotonic() - began
        if set(codes) == {0}:
            assert figures(self.run) == figures(self.undisturbed), "a run that was stopped is another one"
            shutil.rmtree(self.run)
            return None
        told = re.findall(r"SIGTERM: (stopped.*?)(?:; the same|: go on|$)", " ".join(c.err for c in children), re.M)
        return {
            "processes": self.count,
            "moment": round(moment, 2),
            "signal to": stopped,
            "phase": phase(said),
            "compiles": number % 2 == 1,
            "seconds": round(seconds, 2),
            "codes": codes,
            "told": [re.sub(r" in /\S+", "", text) for text in told],
            "stands": last_step(self.run),
        }


def write(out: Path, rounds: list[dict[str, Any]], done: int, earlier: list[str]) -> None:
    """The rounds, and a table of them; `earlier` says of which pieces some are."""
    head = (
        "processes",
        "under way",
        "signals",
        "exit 42",
        "seconds to the end, most",
        "saved",
        "last checkpoint named",
    )
    rows = []
    for key in sorted({(each["processes"], each["phase"]) for each in rounds}):
        some = [each for each in rounds if (each["processes"], each["phase"]) == key]
        told = Counter("saved" if "saved it" in " ".join(each["told"]) else "named" for each in some)
        right = sum(set(each["codes"]) == {42} for each in some)
        most = max(each["seconds"] for each in some)
        rows.append((*key, len(some), right, f"{most:.1f}", told["saved"], told["named"]))
    lines = ["SIGTERM at random moments of pretraining; CPU, 2 layers of 32.", "", *results.table(head, rows), ""]
    lines.append(f"Runs of one and of two processes that were taken up to their end, bit-equal in every line: {done}.")
    lines += ["", *earlier] if earlier else []
    results.write(out, "endings", lines, {"rounds": rounds, "runs done bit-equal": done, "earlier": earlier})


def main() -> None:
    """Makes what is missing."""
    options = results.parser(__doc__)
    options.add_argument("--one", type=int, default=50)
    options.add_argument("--two", type=int, default=20)
    chosen = options.parse_args()
    before = chosen.out / "endings.json"
    kept = json.loads(before.read_text()) if before.exists() else {}
    rounds, done, earlier = kept.get("rounds", []), kept.get("runs done bit-equal", 0), kept.get("earlier", [])
    have = Counter(each["processes"] for each in rounds)
    if have[1] >= chosen.one and have[2] >= chosen.two:
        print(f"{before} has {have[1]} and {have[2]} rounds already: ask for more, or give another --out")
        return
    if rounds:
        where = f"{kept.get('machine', {}).get('cpu', 'a machine')}, commit {kept.get('commit', 'not known')}"
        earlier.append(f"- the first {len(rounds)} rounds were there before: {kept.get('date', '')}, {where}")
    with tempfile.TemporaryDirectory() as folder:
        home, zygote = Path(folder), Zygote(Path(folder))
        (home / "recipe.py").write_text(RECIPE)
        corpus = results.ROOT / "sample_data/messages.txt.gz"
        made = zygote.start("prepare", "--corpus", corpus, "--vocab-size", 500, "--out", home / "data").ended(300)
        assert made[0] == 0, made
        for count, wanted in ((1, chosen.one), (2, chosen.two)):
            made = Rounds(home, zygote, count) if have[count] < wanted else None
            while have[count] < wanted:
                one = made.round(have[count])
                done += one is None
                have[count] += one is not None
                rounds += [one] if one else []
                write(chosen.out, rounds, done, earlier)
        zygote.close()


if __name__ == "__main__":
    main()
