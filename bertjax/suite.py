"""Several fine-tuning runs as one: the tasks of a suite, seeds, a grid of settings; a table and a submission of all."""

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from operator import itemgetter
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory
from typing import Any

import jax
from rich.table import Table

from bertjax import run, tasks
from bertjax.config import Finetune
from bertjax.errors import ConfigError, DataError, MissingData
from bertjax.jsonio import expecting, read_json, to_json, write_json
from bertjax.parsing import is_name
from bertjax.paths import as_path, fetched, write_bytes
from bertjax.saved import versions
from bertjax.tasks.glue import SUBMISSION, SUITES, GlueTask
from bertjax.train import hosts
from bertjax.train.log import answers, console
from bertjax.use import Evaluate

LEFT_OUT = "wnli"  # of the average, as in the paper: its dev and train sets contradict each other (GLUE's FAQ 12)
AFTER_MNLI = ("rte", "mrpc", "stsb")
GRIDS = {
    "none": [],
    "bert": list(product((16, 32), (5e-5, 3e-5, 2e-5), (2, 3, 4))),
    "small": list(product((8, 16, 32, 64, 128), (3e-4, 1e-4, 5e-5, 3e-5), (4,))),
}


def finetune(config: Finetune) -> None:
    """One run, or all of a suite, of several seeds, of a grid; the same command again goes on where it stopped."""
    if config.from_mnli and config.task != "glue":
        raise ConfigError("from_mnli is of the suite: give it with --task glue")
    if config.from_mnli and config.encoder == "random":
        raise ConfigError("from_mnli is for a pretrained encoder; leave out --encoder random")
    if config.task not in SUITES and not config.seeds and config.grid == "none":
        return run.finetune(config)
    names, missing = _present(config)
    with hosts.writing(as_path(config.out)):
        _all(config, names, missing)


def _all(config: Finetune, names: list[str], missing: list[str]) -> None:
    seeds = config.seeds or (config.seed,)
    chosen: dict[str, list[Path]] = {}
    for name in names:
        start = config.source
        tried: list[tuple[float, list[Path]]] = []
        for setting, there in _settings(config, name):
            folders = [there / f"seed-{seed}" for seed in seeds]
            for number, (seed, folder) in enumerate(zip(seeds, folders, strict=True)):
                if config.from_mnli and name in AFTER_MNLI:
                    start = str(chosen["mnli"][number])
                _once(replace(setting, source=start, seed=seed, out=str(folder)))
            tried.append((median(map(_first, folders)), folders))
        _, chosen[name] = max(tried, key=itemgetter(0))  # of equal ones the first of the grid
    _write(config, chosen, missing, seeds)


def _present(config: Finetune) -> tuple[list[str], list[str]]:
    """The tasks of which there are files, MNLI first where others start from it, and the rest."""
    names = SUITES.get(config.task, (config.task,))
    missing: dict[str, str] = {}
    for name in names:
        try:
            tasks.find(name, config.columns).read(config.data, "dev")
        except MissingData as error:
            missing[name] = str(error)
    found = [name for name in names if name not in missing]
    if not found:
        raise DataError(f"{config.task}: {config.data} has the files of none of its tasks; {missing[names[0]]}")
    for name in missing:
        console.print(f"{config.task}: no files of {name} in {config.data}; it is left out")
    if config.from_mnli and "mnli" not in found:
        raise ConfigError(f"from_mnli, but {config.data} has no files of MNLI; leave it out")
    return sorted(found, key=lambda name: config.from_mnli and name != "mnli"), list(missing)


def _settings(config: Finetune, name: str) -> Iterator[tuple[Finetune, Path]]:
    """A task with the settings of every point of the grid, and the folder for its runs."""
    one = replace(config, task=name, seeds=(), grid="none", from_mnli=False)
    folder = as_path(config.out) / name
    if config.grid == "none":
        yield one, folder
    for batch_size, rate, epochs in GRIDS[config.grid]:
        optimizer = replace(config.optimizer, peak_lr=rate)
        point = replace(one, batch_size=batch_size, optimizer=optimizer, epochs=epochs)
        yield point, folder / f"batch-{batch_size}_rate-{rate:g}_epochs-{epochs}"


def _once(config: Finetune) -> None:
    """A run, unless it is finished already."""
    out = as_path(config.out)
    if (out / "scores.json").exists():
        stored = read_json(out / "config.json", "finetune").get("config")
        columns = tasks.resolved(config.task, config.columns, config.data)
        if stored == to_json(replace(config, columns=columns)):
            console.print(f"finetune: {out} is finished")
            return
    run.finetune(config)
    jax.clear_caches()  # the next run compiles programs of its own


def _first(folder: Path) -> float:
    """What a run is chosen by: the first metric of its task."""
    return float(next(iter(_metrics(folder).values())))


def _metrics(folder: Path) -> dict[str, float]:
    """All figures of a run: those on other splits have these in their names."""
    file = folder / "scores.json"
    with expecting(file, "finetune"):
        scores = read_json(file, "finetune")
        others = {f"{name} {split}": v for split, figures in scores["also"].items() for name, v in figures.items()}
        if not scores["metrics"]:
            raise ValueError("no metrics")
        return {name: float(value) for name, value in {**scores["metrics"], **others}.items()}


def _write(config: Finetune, chosen: Mapping[str, list[Path]], missing: Sequence[str], seeds: Sequence[int]) -> None:
    out, found = as_path(config.out), dict[str, Any]()
    table = Table(title=f"{config.task} dev, {len(seeds)} seeds", title_justify="left")
    for column in ("task", "metric", "median", "mean", "spread", "best"):
        table.add_column(column, justify="left" if column in ("task", "metric") else "right")
    for name, folders in chosen.items():
        runs = [_metrics(folder) for folder in folders]
        metrics = {metric: _summary([figures[metric] for figures in runs]) for metric in runs[0]}
        score = _summary([mean(figures.values()) for figures in runs])
        found[name] = {
            "score": score,
            "metrics": metrics,
            "runs": [str(run.relative_to(out)) for run in folders],
        }
        for metric, summary in metrics.items():
            table.add_row(name, metric, *(f"{summary[kind]:.4f}" for kind in ("median", "mean", "spread", "best")))
    counted = [name for name in found if name != LEFT_OUT] or list(found)
    average = mean(found[name]["score"]["median"] for name in counted)
    formula = f"mean over {', '.join(counted)} of the median over seeds of the mean of a task's metrics"
    table.add_row("average", "", f"{average:.4f}", "", "", "")
    about = {"task": config.task, "split": "dev", "from": config.source, "seeds": list(seeds), "grid": config.grid}
    result = {"average": average, "formula": formula, "spread": "best - worst", "tasks": found}
    path = out / "scores.json"
    result |= {"missing": list(missing), "config": to_json(config), "versions": versions()}
    if hosts.first():
        write_json(path, about | result)
    answers.print(table)
    answers.print(f"average: {formula}; spread: best - worst")
    console.print(f"scores in {path}")


def _summary(values: Sequence[float]) -> dict[str, Any]:
    best, spread = max(values), max(values) - min(values)
    return {"median": median(values), "mean": mean(values), "spread": spread, "best": best, "values": list(values)}


def evaluate(config: Evaluate) -> None:
    """A run, or each task of a suite by the best of its runs; of `test` also the leaderboard's archive."""
    out = as_path(config.run)
    table = out / "scores.json"
    chosen = _chosen(table) if table.is_file() else {}
    if not chosen:
        return run.evaluate(config)
    if config.task or config.out:
        raise ConfigError(f"{config.run} holds runs of several tasks: leave out --task and --out, or give one of them")
    for name, folders in chosen.items():
        best = max((out / folder for folder in folders), key=_first)
        for other, split in _parts(name, config.split):
            file = out / f"scores-{other}-{split}.json"
            one = replace(config, run=str(best), task=other if other != name else "", split=split, out=str(file))
            try:
                run.evaluate(one)
            except MissingData as error:
                console.print(f"{other}: left out: {error}")
    if config.split == "test" and hosts.first():
        _pack(out)


def _chosen(table: Path) -> dict[str, list[str]]:
    """The runs of each task of a suite, as folders inside of its own; nothing of what is one run."""
    found: dict[str, list[str]] = {}
    with expecting(table, "finetune"):
        for name, about in read_json(table, "finetune").get("tasks", {}).items():
            found[name] = list(about["runs"])
            if not is_name(name) or not all(is_name(part) for run in found[name] for part in Path(run).parts):
                raise ValueError(f"the runs of {name} are not folders inside of it")
    return found


def _parts(name: str, split: str) -> list[tuple[str, str]]:
    """What a model of a task is evaluated on; of `test` all that the leaderboard takes."""
    task = tasks.all_tasks().get(name)
    if split != "test" or not isinstance(task, GlueTask):
        return [(name, split)]
    return [*((name, part) for part in task.submits), *([("ax", "test")] if name == "mnli" else [])]


def _pack(out: Path) -> None:
    """submission.zip of the files in submission/; what the leaderboard misses is told."""
    made = [name for name in SUBMISSION if (out / "submission" / name).is_file()]
    if not made:
        return
    with fetched(out / "submission") as here, TemporaryDirectory(prefix="bertjax-") as folder:
        file = Path(folder) / "submission.zip"
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in made:
                archive.write(here / name, name)
        write_bytes(out / file.name, file.read_bytes())
    missing = ", ".join(sorted(set(SUBMISSION).difference(made)))
    lacks = f"; the leaderboard also wants {missing}" if missing else ""
    console.print(f"submission: {len(made)} files in {out / 'submission.zip'}{lacks}")
