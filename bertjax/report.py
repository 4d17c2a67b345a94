"""Tables for people: what a model consists of, what a run would take, how runs did, what there is to choose from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec
from rich.console import Console
from rich.table import Table

from bertjax import registry, tasks
from bertjax.config import Pretrain
from bertjax.contracts import ModelConfig, Objective
from bertjax.errors import ConfigError, DataError, closest
from bertjax.jsonio import expecting, read_json, to_json
from bertjax.paths import as_path, whole
from bertjax.recipe import load_recipe
from bertjax.saved import open_run
from bertjax.train.log import answers, describe, read_metrics
from bertjax.train.mesh import make_mesh, path_of, spec_for, undivided
from bertjax.train.optim import decayed
from bertjax.train.padding import held_shape
from bertjax.train.spent import PARTS, shares
from bertjax.train.state import param_shapes
from bertjax.use import with_preset


def inspect(path: str, preset: str | None = None) -> None:
    """The parameters of a run, or of the model a recipe describes, perhaps in a published size."""
    if Path(path).suffix == ".py":
        recipe = load_recipe(path, Pretrain)
        recipe = recipe if preset is None else with_preset(recipe, preset)
        model, objective, mesh, length = recipe.model, recipe.objective, recipe.mesh, recipe.length
    else:
        if preset is not None:
            raise ConfigError(f"--preset {preset} is for a recipe (CONFIG.py); {path} has its size")
        saved = open_run(path)
        answers.print(f"{path}: a {saved.command} run, best checkpoint {saved.step}: {describe(saved.figures)}")
        model, objective, mesh, length = saved.model, saved.trained_for(), saved.config.mesh, saved.config.length
    _print_parameters(objective.build(model), make_mesh(mesh))
    flops, masked = objective.flops_per_token(model, length), objective.masked_fraction(length)
    answers.print(f"{flops / 1e6:,.1f} MFLOP a token of a training step at length {length}, {masked:.1%} of it masked")


def _print_parameters(objective: Objective, mesh: Mesh) -> None:
    table = Table("parameter", "shape", "sharding", "bytes", "decay")
    table.columns[0].overflow = "fold"
    leaves = [(path_of(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(param_shapes(objective))]
    for name, leaf in leaves:
        shape = held_shape(name, leaf.shape, mesh)
        note = " (does not divide: replicated)" if undivided(name, shape, mesh) else ""
        note = f" (as {shape[0]:,} rows)" if shape != leaf.shape else note
        sharding = _spec(spec_for(name, shape, mesh)) + note
        table.add_row(name, str(leaf.shape), sharding, f"{leaf.size * 4:,}", "yes" if decayed(name) else "no")
    answers.print(table)
    count = sum(leaf.size for _, leaf in leaves)
    decay = sum(leaf.size for name, leaf in leaves if decayed(name))
    answers.print(f"{count:,} parameters ({decay:,} decayed), {count * 4:,} bytes in float32; mesh {dict(mesh.shape)}")


def _spec(spec: PartitionSpec) -> str:
    """P(None, ("tensor", "fsdp")) as "-, tensor+fsdp"; "replicated" where no axis is cut."""
    axes = ["+".join(axis) if isinstance(axis, tuple) else axis or "-" for axis in spec]
    return "replicated" if set(axes) <= {"-"} else ", ".join(axes)


def list_names(kind: str) -> None:
    """Models, objectives, tasks or presets; everything for ""."""
    listings = {
        "models": lambda: registry.names("models"),
        "objectives": lambda: registry.names("objectives"),
        "tasks": lambda: [f"{name}: {task.source}" for name, task in tasks.all_tasks().items()],
        "presets": lambda: [line for family in registry.names("models") for line in _presets(family)],
    }
    if kind and kind not in listings:
        raise ConfigError(f"list {kind!r}{closest(kind, listings)}")
    for name in [kind] if kind else listings:
        answers.print(name, *listings[name](), sep="\n  ")


def _presets(family: str) -> list[str]:
    presets: dict[str, ModelConfig] = registry.find("models", family).PRESETS
    given = {name: to_json(config) for name, config in presets.items()}
    told = [
        key
        for key, value in to_json(next(iter(presets.values()))).items()
        if any(c[key] != value for c in given.values())
    ]
    return [f"{family} {name}: {', '.join(f'{key}={config[key]}' for key in told)}" for name, config in given.items()]


def report(runs: Sequence[str], out: str) -> None:
    """How runs did: pretraining at its start and end, fine-tuned runs by their scores beside their baselines.

    And where their time went.
    """
    figures = ("loss", "masked accuracy", "sentence accuracy (NSP or SOP)")
    pretrained = _table_of_runs("pretraining, held-out text", "step", *figures)
    times = _table_of_runs("time", "seconds", *PARTS)
    scores: list[tuple[str, dict[str, float]]] = []
    baselines: list[tuple[str, dict[str, float]]] = []
    for run in runs:
        config = read_json(as_path(run) / "config.json", "pretrain and finetune")
        if config.get("command") == "pretrain":
            with expecting(as_path(run) / "metrics.jsonl", "pretrain"):
                for row in map(_held_out, _first_and_last(run)):
                    pretrained.add_row(run, *row)
        else:
            with expecting(as_path(run) / "scores.json", "finetune"):
                model, *beside = _scores(run)
            scores.append(model)
            baselines += [row for row in beside if row not in baselines]  # runs on the same rows share them
        if spent := _spent(run):
            times.add_row(run, f"{sum(spent.values()):,.0f}", *(shares(spent)[part] for part in PARTS))
    tables = [*_score_tables(scores + baselines), times]
    tables = [table for table in (pretrained, *tables) if table.row_count]
    answers.print(*tables, sep="\n")
    if out:
        with whole(Path(out)) as new, new.open("w", encoding="utf-8") as file:
            Console(file=file, width=120, markup=False, emoji=False).print(*tables, sep="\n")


def _table_of_runs(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("run", overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", overflow="fold")
    return table


def _first_and_last(run: str) -> list[dict[str, Any]]:
    lines = [line for line in read_metrics(as_path(run)) if line["split"] == "dev"]
    if not lines:
        raise DataError(f"{run}/metrics.jsonl has no evaluation yet; run pretrain again to go on")
    return [lines[0], lines[-1]]


def _spent(run: str) -> dict[str, float]:
    """Seconds by what they went into, up to the last line of the log; of a run without a log nothing."""
    lines = [line["spent"] for line in read_metrics(as_path(run)) if set(line.get("spent", {})) == set(PARTS)]
    return lines[-1] if lines else {}


def _held_out(line: dict[str, Any]) -> tuple[str, ...]:
    """Step, loss, masked accuracy and that of the sentence pairs, where there are some."""
    pairs = next((f"{line[name]:.3f}" for name in ("nsp_accuracy", "sop_accuracy") if name in line), "-")
    return str(line["step"]), *(f"{line[name]:.3f}" for name in ("loss", "mlm_accuracy")), pairs


def _scores(run: str) -> list[tuple[str, dict[str, float]]]:
    scores = read_json(as_path(run) / "scores.json", "finetune")
    rows = f"{scores['data']['train']['rows']:,} rows of {scores['task']}"
    found = {f"{run}: {scores['encoder']} encoder": scores["metrics"], **scores.get("baseline", {})}
    return [(f"{name}, {rows}", {k: float(v) for k, v in values.items()}) for name, values in found.items()]


def _score_tables(scores: Sequence[tuple[str, dict[str, float]]]) -> list[Table]:
    """One table for each set of metrics."""
    tables: dict[tuple[str, ...], Table] = {}
    for what, metrics in scores:
        table = tables.get(tuple(metrics))
        if table is None:
            table = tables[tuple(metrics)] = Table("model", *metrics, title="tasks, dev", title_justify="left")
            table.columns[0].overflow = "fold"
        table.add_row(what, *(f"{value:.4f}" for value in metrics.values()))
    return list(tables.values())
