"""The writing of checkpoints: in the background, whole or not at all, with a manifest."""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from bertjax.errors import StorageError, UnsavedError
from bertjax.paths import remote, remove
from bertjax.storage import described, fault_of, free_bytes, given_up, writing
from bertjax.train import manifest
from bertjax.train.background import heard, listen
from bertjax.train.log import console
from bertjax.train.padding import resized
from bertjax.train.state import TrainState
from bertjax.train.steps import UNFINISHED, folder_of, rank, steps_of, unfinished

FAILURES = 3  # saves in a row that the disk may refuse
NOTICED = 1.0  # seconds of waiting that are worth a word
QUIET, CLEARED = 1.0, 8.0  # seconds without anything unfinished that show the end of it; seconds at most


class Saver:
    """Writes RUN/checkpoints/STEP in the background; keeps the last `keep_last` and the best.

    The best is one of the last phase: no positions after the rows of a shorter one have been trained before it.
    A save that the disk does not take is told and given up; the next one tries again, up to FAILURES in a row.
    """

    def __init__(
        self,
        run: Path,
        *,
        keep_last: int,
        best: str,
        constant: Mapping[str, Any],
        leader: Sequence[float] = (),
        sync: bool = False,
        stored: TrainState | None = None,
        phase_of: Callable[[int], int] = lambda step: 0,
    ) -> None:
        """`best` is the figure to choose by, "-loss" to choose the lowest; `constant` goes into every `extra`.

        `leader` is the first step that had the best score so far, its phase and that score: an `extra` has it for who
        resumes. `phase_of` a step is the number of its phase. With `sync` a save returns when it is on the disk.
        States are written as `stored` has them (train/padding.py), or else as they are.
        """
        listen()
        self.leader = tuple(leader)
        self._run, self._keep_last, self._sync, self._stored = run, keep_last, sync, stored
        self._sign = -1.0 if best.startswith("-") else 1.0
        self._best = best.removeprefix("-")
        self._constant, self._phase_of = constant, phase_of
        self._step: int | None = None  # what is being saved
        self._failures = 0  # since the last save that went well
        self._lost = StorageError()  # the last of them
        self._manager = self._begin()
        self._over = False  # whether it is to be begun anew

    def _begin(self) -> ocp.CheckpointManager:
        kept = [LatestN(self._keep_last), BestN(get_metric_fn=rank, n=1, keep_checkpoints_without_metrics=False)]
        options = ocp.CheckpointManagerOptions(
            best_fn=rank,
            preservation_policy=AnyPreservationPolicy(kept),
            # Called by the first process alone, when all have written and before the folder gets its name.
            async_options=ocp.AsyncOptions(post_finalization_callback=self._list),
        )
        with writing(folder_of(self._run)):
            return ocp.CheckpointManager(folder_of(self._run), options=options)

    def _list(self) -> None:
        manifest.write(folder_of(self._run, f"{self._step}" if remote(self._run) else f"{self._step}{UNFINISHED}"))

    def save(
        self,
        state: TrainState,
        *,
        loader: Sequence[Sequence[int]],
        log: Mapping[str, Any],
        figures: Mapping[str, float] | None,
        before: Callable[[], None] = lambda: None,
    ) -> None:
        """Starts saving; the state may be given up once this returns. `log` is kept as it is.

        `before` writes what must be on the disk before the checkpoint is; where it cannot, the save has failed.
        """
        step = int(state.step)
        score = None
        if figures and math.isfinite(figures[self._best]):  # nothing is better or worse than what is not a number
            score = {"phase": self._phase_of(step), "score": self._sign * figures[self._best]}
        if score and not (self.leader and rank(score) <= self.leader[1:]):
            self.leader = step, *rank(score)
        extra = {
            **self._constant,
            "leader": list(self.leader),
            "loader": [list(place) for place in loader],
            **log,
            "figures": dict(figures or {}),
        }
        self._wait_for_the_last(step)
        if self._stored:
            state = resized(state, self._stored)
        train = {"step": state.step, "key": state.key, "opt_state": state.opt_state}
        items = {name: ocp.args.StandardSave(tree) for name, tree in {**state.params, "train": train}.items()}
        self._step, heard.error = step, None
        try:
            before()
            if self._over:
                self._manager, self._over = self._begin(), False
            self._manager.save(
                step, args=ocp.args.Composite(**items, extra=ocp.args.JsonSave(extra)), metrics=score, force=True
            )
        except Exception as error:  # Orbax raises many kinds
            self._failed(error)
        if self._sync:
            self._settle()

    def _wait_for_the_last(self, step: int) -> None:
        began, failed = time.perf_counter(), self._failures
        self._settle()
        waited = time.perf_counter() - began
        if waited > NOTICED and self._failures <= failed:
            console.print(
                f"step {step} waited {waited:.1f} s for the checkpoint before it: the disk is slower than the saves "
                "come; save less often (--save-every)"
            )

    def check(self) -> None:
        """Tells of a save that has failed; does not wait for one that goes on."""
        failed = jax.process_count() > 1 and heard.error
        if self._step is not None and (failed or not self._manager.is_saving_in_progress()):
            self._settle()
        if self._step is None and self._failures:
            remove_unfinished(self._run)  # threads of the save that failed may still have written

    def forget(self, after: int) -> None:
        """Deletes the checkpoints of later steps."""
        self.wait()
        for step in self._manager.all_steps():
            if step > after:
                self._manager.delete(step)

    def wait(self) -> None:
        """Returns when the last save is on disk; raises where it is not."""
        self._settle(last=True)
        if self._failures:
            raise self._lost

    def _settle(self, *, last: bool = False) -> None:
        """Waits for what is being saved."""
        if self._over:
            return
        if self._step is not None and jax.process_count() > 1:
            while self._manager.is_saving_in_progress() and not heard.error:
                time.sleep(0.05)
            if heard.error:  # Orbax would wait for the other processes, and these wait for this one
                self._failed(heard.error)
        try:
            self._manager.wait_until_finished()
        except Exception as error:  # Orbax raises many kinds
            self._failed(error, last=last)
        else:
            self._failures = 0 if self._step is not None else self._failures
            self._step = None

    def _failed(self, error: BaseException, *, last: bool = False) -> None:
        """Gives a save up; raises where there have been too many, or there will be no other."""
        number = fault_of(error)
        if not number:
            raise error
        where = str(error.where) if isinstance(error, StorageError) and error.where else self._run
        step, self._step = self._step, None
        self._failures += 1
        kept = "what was there is kept"
        with suppress(Exception) if remote(self._run) else nullcontext():
            good = steps_of(self._run)
            kept = f"checkpoint {good[-1]} is the last" if good else "there is none yet"
        why = f"checkpoint {step} could not be saved ({kept})"
        several = jax.process_count() > 1  # what the others have done of it is not known
        if not several:
            self._start_again()
        self._lost = given_up(why, where, number)
        if several:
            self._lost = UnsavedError(str(self._lost))
        if last or several or self._failures == FAILURES:
            raise self._lost
        console.print(f"{why}: {described(where, number)}; the next save tries again")

    def _start_again(self) -> None:
        """Begins anew with the next save: Orbax forgets that steps it meant to delete are still there."""
        with suppress(Exception):
            self._manager.close()
        remove_unfinished(self._run)
        self._over = True

    def close(self) -> None:
        """Waits and lets go; what goes wrong here is told, as something else may have gone wrong before."""
        if jax.process_count() > 1 and heard.error:
            return  # nothing ends well here
        try:
            self._manager.close()
        except Exception as error:  # Orbax raises many kinds
            self._failures += 1
            console.print(f"checkpoint {self._step} could not be saved: {str(error)[:300]}")
        if self._failures:
            self._clear()

    def _clear(self) -> None:
        """Removes what is unfinished until the threads of the save that failed, which Orbax leaves, write no more."""
        began = quiet = time.monotonic()
        while (now := time.monotonic()) - quiet < QUIET and now - began < CLEARED:
            if remove_unfinished(self._run):
                quiet = now
            time.sleep(0.05)


def remove_unfinished(run: Path) -> bool:
    """Removes what saves that were cut off have left; returns whether there was any."""
    with suppress(Exception) if remote(run) else nullcontext():  # a bucket that is out of reach is told by the save
        left = unfinished(run)
        for folder in left:
            remove(folder)
        return bool(left)
    return False


def require_room(run: Path, state: TrainState, *, keep_last: int) -> None:
    """Raises where not one checkpoint of a state fits on the disk; warns where not all that are kept do."""
    if remote(run):
        return
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    free, more = free_bytes(run), max(1, keep_last + 2 - len(steps_of(run)))  # the last, the best, and a new one
    room = f"{run}: {free / 2**20:,.0f} MiB are free, a checkpoint takes {size / 2**20:,.0f}"
    if free < size:
        raise StorageError(f"{room}; make room, or give another --out")
    if free < more * size:
        console.print(f"{room}, and there will be {more} more of them: make room, or lower --keep-last")


def tidy(run: Path, damaged: Iterable[int] = ()) -> None:
    """Removes what saves that were cut off have left in a run; moves the `damaged` steps to RUN/damaged."""
    remove_unfinished(run)
    # Orbax would stop at a score that it cannot read, in whichever step it is.
    unreadable = [step for step in steps_of(run) if (folder_of(run, step) / "metrics/metrics").exists()]
    unreadable = [step for step in unreadable if manifest.faults(folder_of(run, step), {"metrics"})]
    for step in sorted({*damaged, *unreadable}):
        aside = run / "damaged" / str(step)
        remove(aside)
        aside.parent.mkdir(exist_ok=True)
        folder_of(run, step).rename(aside)
        console.print(f"damaged: checkpoint {step} is moved to {aside}; delete it when you have looked at it")
