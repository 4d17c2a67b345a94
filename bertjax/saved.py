"""A run read back from its folder: config, model, tokenizer and checkpoint, with no architecture flags."""

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from bertjax import tasks
from bertjax.config import Finetune, Pretrain
from bertjax.contracts import ModelConfig, Objective, Params
from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import ConfigError, DataError
from bertjax.jsonio import from_json
from bertjax.objectives import supervised
from bertjax.train.checkpoint import Checkpoints
from bertjax.train.mesh import shardings
from bertjax.train.step import init_params, place

COMMANDS: dict[str, type[Any]] = {"pretrain": Pretrain, "finetune": Finetune}


@dataclass(frozen=True)
class SavedRun:
    """One checkpoint of a run and all that is needed to use it."""

    path: Path
    command: str
    config: Pretrain | Finetune
    model: ModelConfig
    tokenizer: Tokenizer
    step: int
    figures: dict[str, float]
    checkpoints: Checkpoints

    def objective(self) -> Objective:
        """The module the run trained."""
        if isinstance(self.config, Pretrain):
            return self.config.objective.build(self.model)
        task = tasks.find(self.config.task, self.config.task_settings)
        return supervised.Config(len(task.labels), self.config.dropout, task.head).build(self.model)

    def params(self, objective: Objective, mesh: Mesh) -> Params:
        """Trained parameters of the objective the run trained."""
        return self.checkpoints.params(self.step, _wanted(objective, mesh))

    def encoder_params(self, objective: Objective, mesh: Mesh) -> Params:
        """The trained encoder for another objective over `self.model`, and the pooler where both have one."""
        wanted, there = _wanted(objective, mesh), self.checkpoints.parts(self.step)
        return self.checkpoints.params(
            self.step, {name: wanted[name] for name in ("encoder", "pooler") if name in wanted and name in there}
        )


def _wanted(objective: Objective, mesh: Mesh) -> dict[str, Any]:
    like = jax.eval_shape(lambda: init_params(objective, jax.random.key(0)))
    return place(like, shardings(like, mesh))


def open_run(path: str | Path, command: str = "") -> SavedRun:
    """The best checkpoint of a run folder; `command` is the kind of run that is wanted, if it matters."""
    folder = Path(path)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such run; give the --out folder of `bertjax {command or 'pretrain'}`")
    checkpoints = Checkpoints(folder)
    step = checkpoints.best
    extra = checkpoints.extra(step)
    if command and extra["command"] != command:
        raise ConfigError(f"{folder} is a {extra['command']} run; this needs one made by `bertjax {command}`")
    where = f"{folder}/checkpoints/{step}"
    return SavedRun(
        path=folder,
        command=extra["command"],
        config=from_json(COMMANDS[extra["command"]], extra["config"], where),
        model=from_json(ModelConfig, extra["model"], where),
        tokenizer=Tokenizer.from_json(extra["tokenizer"]),
        step=step,
        figures=extra["figures"],
        checkpoints=checkpoints,
    )


def versions() -> dict[str, str]:
    """Versions of what decides the numbers, for config.json and scores.json."""
    return {name: version(name) for name in ("bertjax", "jax", "flax", "optax", "orbax-checkpoint", "numpy")}
