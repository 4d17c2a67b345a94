"""Checkpoints: one atomic Orbax step holds all that a run needs to go on, or to be used elsewhere.

Every top-level part of the parameters (`encoder`, `pooler`, `mlm`, ...) is an item of its own, so that an encoder is
restored alone whatever heads or optimizer the run had; `train` holds the rest of the state and `extra` (JSON) the
config, the tokenizer, the loader's position and the metrics since the last line of the log. Nothing is read that is
not as the manifest says.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from bertjax.contracts import Params
from bertjax.errors import DataError, UserError
from bertjax.storage import fault_of, storage_error
from bertjax.train import manifest
from bertjax.train.background import listen
from bertjax.train.mesh import path_of
from bertjax.train.state import TrainState
from bertjax.train.steps import Steps, folder_of, listed

NOT_PARAMETERS = {"train", "extra", "metrics"}


class Checkpoints:
    """The checkpoints of a run, to read."""

    def __init__(self, run: Path) -> None:
        listen()
        self.run = run
        self._steps = Steps(run)
        self._orbax = ocp.Checkpointer(ocp.CompositeCheckpointHandler())

    @property
    def latest(self) -> int:
        """The last step saved."""
        return self._steps.numbers[-1]

    @property
    def best(self) -> int:
        """The step with the best score; the last one where none was evaluated."""
        return self._steps.by_score()[0]

    def latest_good(self, before: float = math.inf) -> "Checkpoint":
        """The last step that is whole, of those before a step."""
        number, damaged = self._steps.latest_good(before)
        return Checkpoint(self, number, tuple(damaged))

    def best_good(self) -> "Checkpoint":
        """The best step that is whole, but for what only training needs."""
        number, damaged = self._steps.best_good()
        return Checkpoint(self, number, tuple(damaged))

    def extra(self, step: int) -> dict[str, Any]:
        """Config, tokenizer, places in the data, metrics window and evaluation figures of a step."""
        self._steps.require(step, {"extra"})
        with self._reading(step):  # by the handler alone: it does not wait for others, who may have errors of their own
            found: dict[str, Any] = ocp.JsonCheckpointHandler().restore(
                epath.Path(folder_of(self.run, step) / "extra"), ocp.args.JsonRestore()
            )
        return found

    def parts(self, step: int) -> list[str]:
        """Names of the top-level parameters kept in a step: encoder, pooler, ..."""
        return sorted(manifest.parts(folder_of(self.run, step)) - NOT_PARAMETERS)

    def state(self, step: int, like: TrainState) -> TrainState:
        """The whole state, placed as `like` (abstract arrays with shardings)."""
        train = {"step": like.step, "key": like.key, "opt_state": like.opt_state}
        restored = self._restore(step, {**like.params, "train": train})
        rest = restored.pop("train")
        return TrainState(rest["step"], restored, rest["opt_state"], rest["key"])

    def params(self, step: int, like: Params) -> Params:
        """The parts of the parameters named in `like` (abstract arrays), every mismatch reported at once."""
        return self._restore(step, like)

    def _restore(self, step: int, like: Mapping[str, Any]) -> dict[str, Any]:
        self._steps.require(step, like.keys())
        self._check_fit(step, like)
        items = {name: ocp.args.StandardRestore(tree) for name, tree in like.items()}
        with self._reading(step):
            return dict(self._orbax.restore(folder_of(self.run, step), args=ocp.args.Composite(**items)))

    @contextmanager
    def _reading(self, step: int) -> Iterator[None]:
        """What goes wrong with files inside is told with the cure."""
        try:
            yield
        except jax.errors.JaxRuntimeError:  # of no file: another process is lost, or a device lacks memory
            raise
        except Exception as error:  # Orbax raises many kinds, plain Exception among them
            raise self._steps.deleted(step) if self._steps.gone(step) else self._unreadable(step, error) from error

    def _unreadable(self, step: int, error: Exception) -> UserError:
        number = fault_of(error)
        if number:
            return storage_error(folder_of(self.run, step), number)
        return DataError(
            f"checkpoint {folder_of(self.run, step)} cannot be read ({type(error).__name__}: {str(error)[:300]}); it "
            "may be damaged: delete that folder to fall back on the step before"
        )

    def _check_fit(self, step: int, like: Mapping[str, Any]) -> None:
        parts = manifest.parts(folder_of(self.run, step))
        wrong = []
        for name, tree in like.items():
            if name not in parts:
                wrong.append(f"{name}: not in the checkpoint")
                continue
            want, found = arrays(tree), self._arrays(step, name)
            wrong += [f"{name}/{p}: missing" for p in want.keys() - found.keys()]
            wrong += [f"{name}/{p}: not wanted here" for p in found.keys() - want.keys()]
            both = {p: (found[p], want[p]) for p in want.keys() & found.keys() if want[p] != found[p]}
            wrong += [f"{name}/{p}: checkpoint {there}, this model {here}" for p, (there, here) in both.items()]
        if wrong:
            raise DataError(
                f"{folder_of(self.run, step)} does not fit this model:\n  {listed(sorted(wrong))}\n"
                "Use the tokenizer, model and optimizer options the checkpoint was made with."
            )

    def _arrays(self, step: int, name: str) -> dict[str, str]:
        folder = folder_of(self.run, step) / name
        with self._reading(step):
            return arrays(ocp.StandardCheckpointHandler().metadata(epath.Path(folder)).tree)


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint, which was whole when it was chosen."""

    checkpoints: Checkpoints
    number: int
    damaged: tuple[int, ...] = ()  # the steps that would have come before it

    @property
    def extra(self) -> dict[str, Any]:
        """Config, tokenizer, places in the data, metrics window and evaluation figures."""
        return self.checkpoints.extra(self.number)

    @property
    def parts(self) -> list[str]:
        """Names of the top-level parameters."""
        return self.checkpoints.parts(self.number)

    def params(self, like: Params) -> Params:
        """The parts named in `like` (abstract arrays with shardings)."""
        return self.checkpoints.params(self.number, like)

    def state(self, like: TrainState) -> TrainState:
        """The whole state, placed as `like`."""
        return self.checkpoints.state(self.number, like)


def arrays(tree: Any) -> dict[str, str]:  # noqa: ANN401 (any pytree)
    """Path -> shape and type of every array."""
    leaves: Iterable[tuple[Any, Any]] = jax.tree_util.tree_leaves_with_path(tree)
    return {path_of(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves}
