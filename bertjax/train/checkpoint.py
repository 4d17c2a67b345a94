"""Checkpoints: one atomic Orbax step holds all that a run needs to go on, or to be used elsewhere.

Every top-level part of the parameters (`encoder`, `pooler`, `mlm`, ...) is an item of its own, so that an encoder is
restored alone whatever heads or optimizer the run had; `train` holds the rest of the state and `extra` (JSON) the
config, the tokenizer, the loader's position and the metrics since the last line of the log.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from bertjax.contracts import Params
from bertjax.errors import DataError
from bertjax.train.mesh import path_of
from bertjax.train.step import TrainState

logging.getLogger("absl").setLevel(logging.ERROR)


def _score(figures: Mapping[str, float]) -> float:
    return figures["score"]


def _manager(run: Path, *, keep_last: int = 0, read_only: bool) -> ocp.CheckpointManager:
    best = BestN(get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False)
    options = ocp.CheckpointManagerOptions(
        best_fn=_score,
        preservation_policy=None if read_only else AnyPreservationPolicy([LatestN(keep_last), best]),
        read_only=read_only,
        create=not read_only,
        cleanup_tmp_directories=not read_only,
        enable_async_checkpointing=not read_only,
    )
    return ocp.CheckpointManager((run / "checkpoints").absolute(), options=options)


class Saver:
    """Writes RUN/checkpoints/STEP in the background; keeps the last `keep_last` and the best."""

    def __init__(
        self, run: Path, *, keep_last: int, best: str, constant: Mapping[str, Any], leader: Sequence[float] = ()
    ) -> None:
        """`best` is the figure to choose by, "-loss" to choose the lowest; `constant` goes into every `extra`.

        `leader` is the first step that had the best score so far, and that score: an `extra` has it for who resumes.
        """
        self.leader = tuple(leader)
        self._manager = _manager(run, keep_last=keep_last, read_only=False)
        self._sign = -1.0 if best.startswith("-") else 1.0
        self._best = best.removeprefix("-")
        self._constant = dict(constant)

    def save(
        self,
        state: TrainState,
        *,
        loader: Sequence[Sequence[int]],
        log: Mapping[str, Any],
        figures: Mapping[str, float] | None,
    ) -> None:
        """Starts saving; the state may be given up once this returns. `log` is kept as it is."""
        score = {"score": self._sign * figures[self._best]} if figures else None
        if score and not (self.leader and score["score"] <= self.leader[1]):
            self.leader = int(state.step), score["score"]
        extra = {
            **self._constant,
            "leader": list(self.leader),
            "loader": [list(place) for place in loader],
            **log,
            "figures": dict(figures or {}),
        }
        train = {"step": state.step, "key": state.key, "opt_state": state.opt_state}
        items = {name: ocp.args.StandardSave(tree) for name, tree in {**state.params, "train": train}.items()}
        self._manager.save(
            int(state.step), args=ocp.args.Composite(**items, extra=ocp.args.JsonSave(extra)), metrics=score, force=True
        )

    def forget(self, after: int) -> None:
        """Deletes the checkpoints of later steps."""
        self._manager.wait_until_finished()
        for step in self._manager.all_steps():
            if step > after:
                self._manager.delete(step)

    def wait(self) -> None:
        """Returns when everything saved is on disk; raises what went wrong in the background."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits and lets go."""
        self._manager.close()


class Checkpoints:
    """The checkpoints of a run, to read."""

    def __init__(self, run: Path) -> None:
        self.run = run
        if not (run / "checkpoints").is_dir():
            raise DataError(f"{run} holds no checkpoints/ folder: give the --out folder of a pretrain or finetune run")
        try:
            self._manager = _manager(run, read_only=True)
        except Exception as error:  # Orbax reads the scores of all steps here
            raise DataError(
                f"{run}/checkpoints cannot be read ({type(error).__name__}: {error}); the scores of a step may be "
                "damaged: delete the folder of the last step to fall back on the one before"
            ) from error
        if not self._manager.all_steps():
            raise DataError(f"{run}/checkpoints holds no finished checkpoint: run the command that made it again")

    @property
    def steps(self) -> list[int]:
        """The steps saved."""
        return sorted(self._manager.all_steps())

    @property
    def latest(self) -> int:
        """The last step saved."""
        return self.steps[-1]

    @property
    def best(self) -> int:
        """The step with the best score; the last one where none was evaluated."""
        return self._manager.best_step() or self.latest

    def extra(self, step: int) -> dict[str, Any]:
        """Config, tokenizer, places in the data, metrics window and evaluation figures of a step."""
        folder = (self.run / "checkpoints" / str(step) / "extra").absolute()
        try:  # by the handler alone: a manager would wait for other processes, which may have errors of their own
            return ocp.JsonCheckpointHandler().restore(epath.Path(folder), ocp.args.JsonRestore())
        except Exception as error:  # Orbax raises many kinds, plain Exception among them
            raise self._damaged(step, error) from error

    def parts(self, step: int) -> list[str]:
        """Names of the top-level parameters kept in a step: encoder, pooler, ..."""
        folder = self.run / "checkpoints" / str(step)
        return sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name not in ("train", "extra", "metrics"))

    def state(self, step: int, like: TrainState) -> TrainState:
        """The whole state, placed as `like` (abstract arrays with shardings)."""
        train = {"step": like.step, "key": like.key, "opt_state": like.opt_state}
        self._check_parts(step, like.params)
        items = {name: ocp.args.StandardRestore(tree) for name, tree in {**like.params, "train": train}.items()}
        restored = self._restore(step, items)
        rest = restored.pop("train")
        return TrainState(rest["step"], restored, rest["opt_state"], rest["key"])

    def params(self, step: int, like: Params) -> Params:
        """The parts of the parameters named in `like` (abstract arrays), every mismatch reported at once."""
        self._check_parts(step, like)
        return self._restore(step, {name: ocp.args.StandardRestore(tree) for name, tree in like.items()})

    def _restore(self, step: int, items: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return dict(self._manager.restore(step, args=ocp.args.Composite(**items)))
        except Exception as error:  # Orbax raises many kinds, plain Exception among them
            raise self._damaged(step, error) from error

    def _damaged(self, step: int, error: Exception) -> DataError:
        return DataError(
            f"checkpoint {self.run}/checkpoints/{step} cannot be read ({type(error).__name__}: "
            f"{str(error)[:300]}); it may be damaged: delete that folder to fall back on the step before"
        )

    def _check_parts(self, step: int, like: Params) -> None:
        found = {name: self._shapes(step, name) for name in like if name in self.parts(step)}
        wrong = []
        for name, tree in like.items():
            if name not in found:
                wrong.append(f"{name}: not in the checkpoint")
                continue
            want = shapes(tree)
            wrong += [f"{name}/{p}: missing" for p in want.keys() - found[name].keys()]
            wrong += [f"{name}/{p}: not wanted here" for p in found[name].keys() - want.keys()]
            wrong += [
                f"{name}/{p}: checkpoint {found[name][p]}, this model {want[p]}"
                for p in want.keys() & found[name].keys()
                if want[p] != found[name][p]
            ]
        if wrong:
            rest = [f"and {len(wrong) - 20} more"] if len(wrong) > 20 else []
            listed = "\n  ".join(sorted(wrong)[:20] + rest)
            raise DataError(
                f"{self.run}/checkpoints/{step} does not fit this model:\n  {listed}\n"
                "Use the tokenizer and model options the checkpoint was made with."
            )

    def _shapes(self, step: int, name: str) -> dict[str, tuple[int, ...]]:
        folder = (self.run / "checkpoints" / str(step) / name).absolute()
        try:
            return shapes(ocp.StandardCheckpointHandler().metadata(epath.Path(folder)).tree)
        except Exception as error:  # Orbax raises many kinds, plain Exception among them
            raise self._damaged(step, error) from error


def saved_in(run: Path) -> Checkpoints | None:
    """The checkpoints of a run, if it has any."""
    folder = run / "checkpoints"
    begun = folder.is_dir() and any(entry.name.isdigit() for entry in folder.iterdir())
    return Checkpoints(run) if begun else None


@dataclass(frozen=True)
class Step:
    """The parameters of one checkpoint."""

    checkpoints: Checkpoints
    number: int

    @property
    def parts(self) -> list[str]:
        """Names of the top-level parameters."""
        return self.checkpoints.parts(self.number)

    def params(self, like: Params) -> Params:
        """The parts named in `like` (abstract arrays with shardings)."""
        return self.checkpoints.params(self.number, like)


def shapes(tree: Any) -> dict[str, tuple[int, ...]]:  # noqa: ANN401 (any pytree)
    """Path -> shape of every array."""
    leaves: Iterable[tuple[Any, Any]] = jax.tree_util.tree_leaves_with_path(tree)
    return {path_of(path): tuple(leaf.shape) for path, leaf in leaves}
