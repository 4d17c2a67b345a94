"""A run or a Hugging Face directory read back: config, model, tokenizer and parameters, no architecture flags."""

from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import jax
from jax.sharding import Mesh

from bertjax import tasks
from bertjax.config import Finetune, Pretrain
from bertjax.contracts import ModelConfig, Objective, ObjectiveConfig, Params, Task
from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import ConfigError, DataError
from bertjax.hf import read as hf
from bertjax.hf.weights import Weights as HfWeights
from bertjax.jsonio import from_json
from bertjax.objectives import supervised
from bertjax.train.checkpoint import Checkpoints, Step
from bertjax.train.mesh import MeshConfig, shardings
from bertjax.train.step import init_params, place


@dataclass(frozen=True)
class Imported:
    """What is known of weights that another program trained; stands where a run has its Pretrain or Finetune."""

    source: str
    objective: ObjectiveConfig
    length: int
    task: str = ""
    task_settings: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    tuned: tuple[tuple[str, float], ...] = ()
    mesh: MeshConfig = field(default_factory=MeshConfig)


class Weights(Protocol):
    """Where parameters are read from."""

    @property
    def parts(self) -> list[str]:
        """Names of the top-level parameters."""
        ...

    def params(self, like: Params) -> Params:
        """The parts named in `like` (abstract arrays with shardings); every mismatch is reported at once."""
        ...


COMMANDS: dict[str, type[Any]] = {"pretrain": Pretrain, "finetune": Finetune, "convert": Imported}


@dataclass(frozen=True)
class SavedRun:
    """One checkpoint of a run, or a Hugging Face directory, and all that is needed to use it."""

    path: Path
    command: str
    config: Pretrain | Finetune | Imported
    model: ModelConfig
    tokenizer: Tokenizer
    step: int
    figures: dict[str, float]
    weights: Weights

    def objective(self) -> Objective:
        """The module the run trained."""
        if not isinstance(self.config, Finetune):
            return self.config.objective.build(self.model)
        task = self.task()
        return supervised.Config(len(task.labels), self.config.dropout, task.head).build(self.model)

    def task(self, name: str = "") -> Task:
        """The task of a fine-tuned run; of imported weights the one named, whose labels must be those of the head."""
        assert not isinstance(self.config, Pretrain)
        known = self.config.task
        if name and known and name != known:
            raise ConfigError(f"{self.path} was fine-tuned on {known}; leave out --task {name}")
        if not name and not known:
            raise ConfigError(f"{self.path} does not say its task; give --task (`bertjax list tasks`)")
        task = tasks.find(name or known, self.config.task_settings)
        if isinstance(self.config, Imported):
            _check_labels(self, self.config, task)
        return task

    @property
    def parts(self) -> list[str]:
        """Names of the top-level parameters there are; without a sentence objective there is no pooler."""
        return self.weights.parts

    def params(self, objective: Objective, mesh: Mesh) -> Params:
        """Trained parameters of the objective the run trained."""
        return self.weights.params(_wanted(objective, mesh))

    def encoder_params(self, objective: Objective, mesh: Mesh) -> Params:
        """The trained encoder for another objective over `self.model`, and the pooler where both have one."""
        wanted = _wanted(objective, mesh)
        return self.weights.params(
            {name: wanted[name] for name in ("encoder", "pooler") if name in wanted and name in self.parts}
        )

    def all_params(self, mesh: Mesh) -> Params:
        """All parts that a Hugging Face directory has, those its objective has no use for too."""
        assert isinstance(self.weights, HfWeights)
        return self.weights.params(place(self.weights.shapes, shardings(self.weights.shapes, mesh)))


def _wanted(objective: Objective, mesh: Mesh) -> dict[str, Any]:
    like = jax.eval_shape(lambda: init_params(objective, jax.random.key(0)))
    return place(like, shardings(like, mesh))


def open_run(path: str | Path, command: str = "") -> SavedRun:
    """A Hugging Face directory, or the best checkpoint of a run; `command` is the kind that is wanted, if any."""
    folder = Path(path)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such run; give the --out folder of `bertjax {command or 'pretrain'}`")
    if hf.is_directory(folder):
        return _of_kind(_imported(folder), command)
    checkpoints = Checkpoints(folder)
    step = checkpoints.best
    extra = checkpoints.extra(step)
    where = f"{folder}/checkpoints/{step}"
    config = from_json(COMMANDS[extra["command"]], extra["config"], where)
    saved = SavedRun(
        path=folder,
        command=extra["command"],
        config=config,
        model=from_json(ModelConfig, extra["model"], where),
        tokenizer=Tokenizer.from_json(extra["tokenizer"]),
        step=step,
        figures=dict(config.tuned) if isinstance(config, Imported) else extra["figures"],
        weights=Step(checkpoints, step),
    )
    return _of_kind(saved, command)


def _imported(folder: Path) -> SavedRun:
    found = hf.read(folder)
    return SavedRun(
        path=folder,
        command="convert",
        config=Imported(
            source=str(folder),
            objective=found.objective,
            length=found.length,
            task=found.about.task,
            task_settings=found.about.settings,
            labels=found.about.labels,
            tuned=tuple(found.about.tuned.items()),
        ),
        model=found.model,
        tokenizer=found.tokenizer,
        step=0,
        figures=found.about.tuned,
        weights=found.weights,
    )


def _of_kind(saved: SavedRun, command: str) -> SavedRun:
    if not isinstance(saved.config, Imported):
        if command and saved.command != command:
            raise ConfigError(f"{saved.path} is a {saved.command} run; this needs one made by `bertjax {command}`")
    elif command == "finetune" and not isinstance(saved.config.objective, supervised.Config):
        raise ConfigError(f"{saved.path} holds weights without a task's head; this needs a run of `bertjax finetune`")
    return saved


def _check_labels(saved: SavedRun, config: Imported, task: Task) -> None:
    assert isinstance(config.objective, supervised.Config)
    if config.objective.head != task.head:
        raise ConfigError(f"{saved.path}: its head is for {config.objective.head}, {task.name} needs {task.head}")
    if config.objective.classes != len(task.labels):
        raise ConfigError(
            f"{saved.path}: its head has {config.objective.classes or 1} outputs, {task.name} has "
            f"{len(task.labels) or 1}; is it of another task?"
        )
    if config.labels and config.labels != task.labels:
        raise ConfigError(
            f"{saved.path}: the labels of its head are {', '.join(config.labels)}, those of {task.name} "
            f"{', '.join(task.labels)}, in this order; correct id2label of its config.json if it is of this task"
        )


def versions() -> dict[str, str]:
    """Versions of what decides the numbers, for config.json and scores.json."""
    return {name: version(name) for name in ("bertjax", "jax", "flax", "optax", "orbax-checkpoint", "numpy")}
