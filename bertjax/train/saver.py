"""The writing of checkpoints: in the background, whole or not at all, with a manifest."""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from bertjax.train import manifest
from bertjax.train.log import console
from bertjax.train.step import TrainState
from bertjax.train.steps import faults_of, folder_of, steps_of


def _score(figures: Mapping[str, float]) -> float:
    return figures["score"]


class Saver:
    """Writes RUN/checkpoints/STEP in the background; keeps the last `keep_last` and the best."""

    def __init__(
        self, run: Path, *, keep_last: int, best: str, constant: Mapping[str, Any], leader: Sequence[float] = ()
    ) -> None:
        """`best` is the figure to choose by, "-loss" to choose the lowest; `constant` goes into every `extra`.

        `leader` is the first step that had the best score so far, and that score: an `extra` has it for who resumes.
        """
        self.leader = tuple(leader)
        self._run = run
        self._unfinished = run  # what is being saved
        self._sign = -1.0 if best.startswith("-") else 1.0
        self._best = best.removeprefix("-")
        self._constant = {**constant, "manifest": manifest.VERSION}
        options = ocp.CheckpointManagerOptions(
            best_fn=_score,
            preservation_policy=AnyPreservationPolicy(
                [LatestN(keep_last), BestN(get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False)]
            ),
            cleanup_tmp_directories=True,
            # Called by the first process alone, when all have written and before the folder gets its name.
            async_options=ocp.AsyncOptions(post_finalization_callback=lambda: manifest.write(self._unfinished)),
        )
        self._manager = ocp.CheckpointManager((run / "checkpoints").absolute(), options=options)

    def save(
        self,
        state: TrainState,
        *,
        loader: Sequence[Sequence[int]],
        log: Mapping[str, Any],
        figures: Mapping[str, float] | None,
    ) -> None:
        """Starts saving; the state may be given up once this returns. `log` is kept as it is."""
        step = int(state.step)
        score = {"score": self._sign * figures[self._best]} if figures else None
        if score and not (self.leader and score["score"] <= self.leader[1]):
            self.leader = step, score["score"]
        extra = {
            **self._constant,
            "leader": list(self.leader),
            "loader": [list(place) for place in loader],
            **log,
            "figures": dict(figures or {}),
        }
        train = {"step": state.step, "key": state.key, "opt_state": state.opt_state}
        items = {name: ocp.args.StandardSave(tree) for name, tree in {**state.params, "train": train}.items()}
        self.wait()
        self._unfinished = folder_of(self._run, f"{step}{ocp.utils.TMP_DIR_SUFFIX}")
        self._manager.save(
            step, args=ocp.args.Composite(**items, extra=ocp.args.JsonSave(extra)), metrics=score, force=True
        )

    def forget(self, after: int) -> None:
        """Deletes the checkpoints of later steps."""
        self.wait()
        for step in self._manager.all_steps():
            if step > after:
                self._manager.delete(step)

    def wait(self) -> None:
        """Returns when everything saved is on disk; raises what went wrong in the background."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits and lets go."""
        self._manager.close()


def tidy(run: Path, damaged: Iterable[int] = ()) -> None:
    """Removes what saves that were cut off have left in a run; moves the `damaged` steps to RUN/damaged."""
    steps = folder_of(run)
    for unfinished in steps.glob(f"*{ocp.utils.TMP_DIR_SUFFIX}") if steps.is_dir() else ():
        shutil.rmtree(unfinished)
    # Orbax would stop at a score that it cannot read, in whichever step it is.
    unreadable = [step for step in steps_of(run) if (folder_of(run, step) / "metrics/metrics").exists()]
    unreadable = [step for step in unreadable if faults_of(folder_of(run, step), {"metrics"})]
    for step in sorted({*damaged, *unreadable}):
        aside = run / "damaged" / str(step)
        shutil.rmtree(aside, ignore_errors=True)
        aside.parent.mkdir(exist_ok=True)
        folder_of(run, step).rename(aside)
        console.print(f"damaged: checkpoint {step} is moved to {aside}; delete it when you have looked at it")
