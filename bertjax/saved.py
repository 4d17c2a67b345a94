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
        task = tasks.find(self.config.task)
        return supervised.Config(len(task.labels), self.config.dropout).build(self.model)

    @property
    def parts(self) -> list[str]:
        """Names of the top-level parameters of the checkpoint; without a sentence objective there is no pooler."""
        return self.checkpoints.parts(self.step)

    def params(self, objective: Objective, mesh: Mesh, parts: tuple[str, ...] = ()) -> Params:
        """Trained parameters of an objective over `self.model`; only the top-level `parts` where some are named."""
        like = jax.eval_shape(lambda: init_params(objective, jax.random.key(0)))
        placed = place(like, shardings(like, mesh))
        return self.checkpoints.params(self.step, {name: placed[name] for name in parts or placed})


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
