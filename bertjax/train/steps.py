"""The checkpoints of a run as folders: which there are, how they score, whether they are whole, and which to take."""

import math
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import Any

from bertjax.errors import DataError, GoneError
from bertjax.parsing import parse
from bertjax.paths import DONE, remote, sizes, steps_in
from bertjax.storage import reading
from bertjax.train import manifest
from bertjax.train.log import console

Rank = tuple[float, float]  # the phase of a checkpoint and its score: those of later phases come first
UNKNOWN: Rank = (float("-inf"), float("-inf"))
SHOWN = 20  # lines of a list in a message
DELETING = 2.0  # seconds within which a checkpoint that is being deleted is gone
UNFINISHED = ".orbax-checkpoint-tmp"  # of the name of a folder that is being written


def rank(figures: Mapping[str, Any]) -> Rank:
    """Of what is kept with a checkpoint that was evaluated."""
    return float(figures["phase"]), float(figures["score"])


def folder_of(run: Path, step: int | str = "") -> Path:
    """Where the checkpoints of a run are, or one of them."""
    return (run / "checkpoints" / str(step)).absolute()


def steps_of(run: Path) -> list[int]:
    """The finished checkpoints of a run, whole or not."""
    return steps_in(folder_of(run))


def unfinished(run: Path) -> list[Path]:
    """What saves that were cut off, or that go on, have left in the place of steps."""
    folder = folder_of(run)
    if not remote(folder):
        return list(folder.glob(f"*{UNFINISHED}"))
    found = sizes(folder)
    return [
        folder / name for name in sorted({name.partition("/")[0] for name in found}) if f"{name}/{DONE}" not in found
    ]


def listed(lines: list[str]) -> str:
    """The first lines of a list, and how many more there are."""
    rest = [f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return "\n  ".join(lines[:SHOWN] + rest)


class Steps:
    """What is in RUN/checkpoints; what was found whole once is not looked at again."""

    def __init__(self, run: Path) -> None:
        self.run = run
        if not folder_of(run).is_dir():
            raise DataError(f"{run} holds no checkpoints/ folder: give the --out folder of a pretrain or finetune run")
        self.numbers = steps_of(run)
        if not self.numbers:
            raise DataError(f"{run}/checkpoints holds no finished checkpoint: run the command that made it again")
        self._whole: dict[int, set[str]] = defaultdict(set)

    def by_score(self) -> list[int]:
        """All steps, the best first; of equal ones, and of those without a score, the last."""
        return sorted(self.numbers, key=lambda step: (self._rank(step), step), reverse=True)

    def _rank(self, step: int) -> Rank:
        path = folder_of(self.run, step) / "metrics/metrics"
        try:
            with reading(path):
                data = path.read_bytes()
        except OSError as error:
            if remote(self.run) and not isinstance(error, FileNotFoundError):
                raise  # a bucket that is out of reach
            return UNKNOWN
        try:
            return rank(parse(data))
        except (ValueError, TypeError, KeyError, OverflowError):
            return UNKNOWN

    def latest_good(self, before: float = math.inf) -> tuple[int, list[int]]:
        """The last step before `before` that is whole; and the damaged later ones, which are printed."""
        return self._first_good([number for number in self.numbers[::-1] if number < before], unread=frozenset())

    def best_good(self) -> tuple[int, list[int]]:
        """The best step that is whole but for what only training reads; and damaged better ones, which are printed."""
        scores = {step: self.faults(step, {"metrics"}) for step in self.numbers}
        unsure = [step for step in self.numbers if scores[step] and not self.gone(step)]
        for step in unsure:
            self._tell(step, scores[step])
        order = [step for step in self.by_score() if not scores[step]]
        number, damaged = self._first_good(order, unread={"train"})
        return number, unsure + damaged

    def _first_good(self, order: Iterable[int], *, unread: Set[str]) -> tuple[int, list[int]]:
        damaged: list[int] = []
        for step in order:
            faults = self.faults(step, manifest.parts(folder_of(self.run, step)) - unread)
            if not faults:
                return step, damaged
            if not self.gone(step):
                self._tell(step, faults)
                damaged.append(step)
        if steps_of(self.run) != self.numbers:
            raise self.deleted(self.numbers[-1])
        raise DataError(
            f"{self.run}: no checkpoint is whole; if the run was copied copy it anew, else delete "
            f"{self.run}/checkpoints and begin again"
        )

    def _tell(self, step: int, faults: list[str]) -> None:
        console.print(f"{folder_of(self.run, step)} is damaged and is passed over:\n  {listed(faults)}")

    def faults(self, step: int, wanted: Set[str]) -> list[str]:
        """A line for each file of the wanted parts of a step that is not as it was written."""
        found = manifest.faults(folder_of(self.run, step), wanted - self._whole[step])
        if not found:
            self._whole[step] |= wanted
        return found

    def gone(self, step: int) -> bool:
        """Whether a step that was there is there no more, or just being deleted: its run goes on being trained."""
        end = time.monotonic() + DELETING
        while step in steps_of(self.run):
            if time.monotonic() > end:
                return False
            time.sleep(DELETING / 8)
        return True

    def require(self, step: int, wanted: Set[str]) -> None:
        """Raises where a wanted part of a step is not as it was written."""
        faults = self.faults(step, wanted)
        if faults and self.gone(step):
            raise self.deleted(step)
        if faults:
            raise DataError(
                f"{folder_of(self.run, step)} is damaged:\n  {listed(faults)}\n"
                f"`bertjax inspect {self.run} --verify` tells which checkpoints are whole."
            )

    def deleted(self, step: int) -> GoneError:
        """What is told of a step that is gone."""
        return GoneError(
            f"checkpoint {folder_of(self.run, step)} was deleted while it was read, as the run is being trained and "
            "keeps the last and the best alone: give the same command again, which takes another"
        )
