"""A run or a Hugging Face directory read back: config, model, tokenizer and parameters, no architecture flags."""

import os
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import jax
from jax.sharding import Mesh

from bertjax import registry, tasks
from bertjax.config import Finetune, Pretrain
from bertjax.contracts import ModelConfig, Objective, ObjectiveConfig, Params, Task
from bertjax.data.tokenizer import Tokenizer
from bertjax.data.vocabulary_files import hub_hint
from bertjax.errors import ConfigError, DataError
from bertjax.hf import read as hf
from bertjax.hf.tf1 import prefix_of
from bertjax.hf.weights import Weights as HfWeights
from bertjax.jsonio import expecting, from_json
from bertjax.objectives import supervised
from bertjax.paths import as_path, remote
from bertjax.tasks._columns import Columns
from bertjax.train.checkpoint import Checkpoints
from bertjax.train.mesh import MeshConfig
from bertjax.train.padding import held, resized, stored
from bertjax.train.state import param_shapes


@dataclass(frozen=True)
class Imported:
    """What is known of weights that another program trained; stands where a run has its Pretrain or Finetune."""

    source: str
    objective: ObjectiveConfig
    length: int
    task: str = ""
    task_settings: tuple[str, ...] = ()
    columns: Columns = field(default_factory=Columns)
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

    def trained_for(self) -> ObjectiveConfig:
        """What stands on the encoder, and what it was trained for."""
        return head(self.task(), self.config) if isinstance(self.config, Finetune) else self.config.objective

    def objective(self) -> Objective:
        """The module the run trained."""
        return self.trained_for().build(self.model)

    def task(self, name: str = "") -> Task:
        """The task of a fine-tuned run, or the one named, whose head and labels must be the same."""
        assert not isinstance(self.config, Pretrain)
        known = self.config.task
        if not name and not known:
            raise ConfigError(f"{self.path} does not say its task; give --task (`bertjax list tasks`)")
        with nullcontext() if name == known or not known else registry.named_by_a_file():
            if isinstance(self.config, Imported):
                own = _fitting(self, self.config, known or name)
            else:
                own = tasks.find(known, self.config.columns)
        task = tasks.find(name) if name and name != own.name else own
        if (task.head, task.labels) != (own.head, own.labels):
            raise ConfigError(
                f"{self.path} was fine-tuned on {known}; leave out --task {name}, whose labels are "
                f"{', '.join(task.labels) or 'none'}, not {', '.join(own.labels) or 'none'}"
            )
        return tasks.with_settings(task, self.config.task_settings)

    @property
    def parts(self) -> list[str]:
        """Names of the top-level parameters there are; without a sentence objective there is no pooler."""
        return self.weights.parts

    def params(self, objective: Objective, mesh: Mesh) -> Params:
        """Trained parameters of the objective the run trained."""
        return self._read(param_shapes(objective), mesh)

    def encoder_params(self, objective: Objective, mesh: Mesh, *, new_layers: int = 0) -> Params:
        """The trained encoder for another objective over `self.model`, and the pooler where both have the same.

        Without its `new_layers` top layers, and then without the pooler.
        """
        wanted = param_shapes(objective)
        both = wanted.keys() & set(self.parts)
        shared: dict[str, Any] = {name: wanted[name] for name in ("encoder", "pooler") if name in both}
        if "pooler" in shared and shared["pooler"]["kernel"].shape[0] != self.model.width:
            del shared["pooler"]  # it stands on several layers
        parts = self._read(shared, mesh)
        if not new_layers:
            return parts
        layers = sum(name.startswith("layer_") for name in parts["encoder"])
        if new_layers > layers:
            raise ConfigError(f"new_layers={new_layers} but the encoder has {layers} layers; lower it")
        kept = {f"layer_{number}" for number in range(layers - new_layers)}
        return {"encoder": {n: part for n, part in parts["encoder"].items() if n in kept or n[:6] != "layer_"}}

    def fitting_params(self, objective: Objective, mesh: Mesh) -> Params:
        """The trained encoder, pooler and heads that another objective over `self.model` has in the same shapes."""
        wanted = param_shapes(objective)
        found = self.weights.shapes if isinstance(self.weights, HfWeights) else param_shapes(self.objective())
        own, other = (jax.tree.map(lambda leaf: leaf.shape, shapes) for shapes in (found, wanted))
        return self._read({n: wanted[n] for n in self.parts if n in own and own[n] == other.get(n)}, mesh)

    def all_params(self, mesh: Mesh) -> Params:
        """All parts that a Hugging Face directory has, those its objective has no use for too."""
        assert isinstance(self.weights, HfWeights)
        return self._read(self.weights.shapes, mesh)

    def _read(self, shapes: Params, mesh: Mesh) -> Params:
        return dict(resized(self.weights.params(stored(shapes, mesh)), held(shapes, mesh)))


def head(task: Task, config: Finetune) -> supervised.Config:
    """What fine-tuning puts on an encoder."""
    return supervised.Config(len(task.labels), config.dropout, task.head, config.features, config.frozen)


def open_run(path: str | Path, command: str = "") -> SavedRun:
    """A Hugging Face directory, or the best checkpoint of a run; `command` is the kind that is wanted, if any."""
    folder = as_path(path)
    if remote(folder):
        return _of_kind(_in_bucket(folder, command), command)
    if not folder.is_dir() and not prefix_of(folder):
        made = f"give the --out folder of `bertjax {command or 'pretrain'}`"
        raise DataError(f"{folder}: no such run; {made}{hub_hint(folder)}")
    return _of_kind(_imported(folder) if hf.is_directory(folder) else _best(folder), command)


def _best(folder: Path) -> SavedRun:
    best = Checkpoints(folder).best_good()
    return restored(folder, best.number, best.extra, best)


def _in_bucket(folder: Path, command: str) -> SavedRun:
    if not (folder / "checkpoints").is_dir():
        raise DataError(
            f"{folder}: no such run in the bucket; give the --out folder of `bertjax {command or 'pretrain'}`. What is "
            f"no run, as a Hugging Face directory, is to be copied here first: gcloud storage cp --recursive {folder} ."
        )
    return _best(folder)


def restored(folder: Path, step: int, extra: Mapping[str, Any], weights: Weights) -> SavedRun:
    """A run by what the `extra` of a checkpoint says; DataError where that is damaged."""
    where = folder / "checkpoints" / str(step)
    with expecting(where, "pretrain and finetune"):
        config = from_json(COMMANDS[extra["command"]], extra["config"], str(where))
        figures = dict(config.tuned if isinstance(config, Imported) else extra["figures"])
        return SavedRun(
            path=folder,
            command=extra["command"],
            config=config,
            model=from_json(ModelConfig, extra["model"], str(where)),
            tokenizer=Tokenizer.from_json(extra["tokenizer"]),
            step=step,
            figures={name: float(value) for name, value in figures.items()},
            weights=weights,
        )


def _imported(folder: Path) -> SavedRun:
    found = hf.read(folder)
    columns = from_json(Columns, found.about.columns, f"{folder}/config.json: columns")
    if any(Path(name).name != name for name in columns.files):
        raise DataError(
            f"{folder}/config.json: columns.files are {columns.files}; only names without folders are taken"
        )
    return SavedRun(
        path=folder,
        command="convert",
        config=Imported(
            source=str(folder),
            objective=found.objective,
            length=found.length,
            task=found.about.task,
            task_settings=found.about.settings,
            columns=columns,
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


def _fitting(saved: SavedRun, config: Imported, name: str) -> Task:
    """The task of imported weights, whose labels are those of their head."""
    assert isinstance(config.objective, supervised.Config)
    regression = not config.objective.classes
    labels = () if regression else config.labels  # the one output of a regression may have a name
    task = tasks.find(name, replace(config.columns, labels=labels, regression=regression) if name == "text" else None)
    if config.objective.head != task.head:
        raise ConfigError(f"{saved.path}: its head is for {config.objective.head}, {task.name} needs {task.head}")
    if config.objective.classes != len(task.labels):
        raise ConfigError(
            f"{saved.path}: its head has {config.objective.classes or 1} outputs, {task.name} has "
            f"{len(task.labels) or 1}; is it of another task?"
        )
    if labels and labels != task.labels:
        raise ConfigError(
            f"{saved.path}: the labels of its head are {', '.join(labels)}, those of {task.name} "
            f"{', '.join(task.labels)}, in this order; correct id2label of its config.json if it is of this task"
        )
    return task


def versions() -> dict[str, str]:
    """Versions of what decides the numbers, for config.json and scores.json."""
    return {name: version(name) for name in ("bertjax", "jax", "flax", "optax", "orbax-checkpoint", "numpy")}


def computed_by() -> dict[str, str]:
    """What besides a config decides the last bits of a run: versions, and the device.

    Of a CPU how many cores as well, over which XLA spreads sums.
    """
    kind = jax.devices()[0].device_kind
    return {**versions(), "device": f"{kind} of {cores()} cores" if kind == "cpu" else kind}


def cores() -> int:
    """Those this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
