"""A model and the rows of a task: batches to train on, logits, metrics, and the files they are kept in."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from rich.table import Table

from bertjax.config import Finetune
from bertjax.contracts import Objective, Params, Row, Task
from bertjax.data.examples import ExampleSource
from bertjax.data.sources import Position
from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import ConfigError
from bertjax.jsonio import write_json
from bertjax.saved import SavedRun, versions
from bertjax.train.log import answers, console
from bertjax.train.mesh import MeshConfig, make_mesh, put_batch
from bertjax.train.step import TrainState


def draw(rows: Sequence[Row], count: int, seed: int) -> list[Row]:
    """`count` rows drawn by the seed, in their order; all of them for 0."""
    if count > len(rows):
        raise ConfigError(f"train_rows={count} but the task has {len(rows)} rows; lower it or leave it out")
    chosen = np.sort(np.random.default_rng(seed).permutation(len(rows))[: count or len(rows)])
    return [rows[i] for i in chosen]


def training_batches(task: Task, rows: Sequence[Row], tokenizer: Tokenizer, config: Finetune) -> ExampleSource:
    """Batches of a task's rows, shuffled anew each epoch."""
    return ExampleSource(
        task.encode(rows, tokenizer, config.length),
        batch_size=config.batch_size,
        length=config.length,
        pad=tokenizer.pad_id,
        shuffle=True,
        drop_last=True,
        seed=config.seed,
    )


class Scorer:
    """Logits and metrics of rows; called with a state it is the evaluation of a training run."""

    def __init__(
        self,
        task: Task,
        rows: Sequence[Row],
        tokenizer: Tokenizer,
        objective: Objective,
        mesh: Mesh,
        *,
        length: int,
        batch_size: int = 64,
        params: Params | None = None,
    ) -> None:
        ways = mesh.shape["data"] * mesh.shape["fsdp"]
        self._task, self._rows, self._mesh, self._params = task, rows, mesh, params
        self._source = ExampleSource(
            task.encode(rows, tokenizer, length),
            batch_size=-(-batch_size // ways) * ways,
            length=length,
            pad=tokenizer.pad_id,
            shuffle=False,
            drop_last=False,
        )
        self._step = jax.jit(lambda params, batch: objective.apply({"params": params}, batch, method="logits"))

    def __call__(self, state: TrainState) -> dict[str, float]:
        self._params = state.params
        return self.score()

    def score(self) -> dict[str, float]:
        """The task's official metrics."""
        return self._task.score(self.logits(), self._rows)

    def logits(self) -> np.ndarray:
        """f32[n,C] of all rows."""
        batches = (self._source.batch(Position(0, 0, i)) for i in range(self._source.batches(0, 0)))
        made = [np.asarray(self._step(self._params, put_batch(batch, self._mesh))) for batch in batches]
        return np.concatenate(made)[: len(self._rows)]


def scorer(saved: SavedRun, task: Task, rows: Sequence[Row], batch_size: int) -> Scorer:
    """The scorer of a fine-tuned run, over all devices."""
    assert isinstance(saved.config, Finetune)
    objective, mesh = saved.objective(), make_mesh(MeshConfig())
    return Scorer(
        task,
        rows,
        saved.tokenizer,
        objective,
        mesh,
        length=saved.config.length,
        batch_size=batch_size,
        params=saved.params(objective, mesh),
    )


def write_scores(
    path: Path,
    task: Task,
    split: str,
    figures: Mapping[str, float],
    rows: Mapping[str, Sequence[Row]],
    about: Mapping[str, Any],
) -> None:
    """Scores with what is needed to get them again, as a file and on the screen."""
    data = {name: {"rows": len(part), "sha256": digest(part)} for name, part in rows.items()}
    metrics = {name: figures[name] for name in task.metrics}
    scores = {"task": task.name, "split": split, "metrics": metrics, **about, "data": data, "versions": versions()}
    write_json(path, scores)
    table = Table(title=f"{task.name} {split}", title_justify="left")
    table.add_column("model")
    for name in metrics:
        table.add_column(name, justify="right")
    for model, values in {"this run": metrics, **about.get("baseline", {})}.items():
        table.add_row(model, *(f"{values[name]:.4f}" for name in metrics))
    answers.print(table)
    console.print(f"scores in {path}")


def digest(rows: Sequence[Row]) -> str:
    """SHA-256 of what the rows hold."""
    return hashlib.sha256(json.dumps([tuple(row) for row in rows]).encode()).hexdigest()


def write_predictions(path: Path, task: Task, logits: np.ndarray) -> None:
    """One line a row: the label and the probability of each (regression: the score); TSV or .jsonl by the name."""
    if task.labels:
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        table = shifted / shifted.sum(axis=1, keepdims=True)
        answers: list[Any] = [task.labels[i] for i in table.argmax(axis=1)]
    else:
        table, answers = np.zeros((len(logits), 0)), [round(float(value), 4) for value in logits[:, 0]]
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    if path.suffix != ".jsonl":
        lines.append("\t".join(["index", "prediction", *task.labels]))
    for index, (answer, row) in enumerate(zip(answers, table, strict=True)):
        shares = {label: round(float(share), 6) for label, share in zip(task.labels, row, strict=True)}
        if path.suffix == ".jsonl":
            record = {"index": index, "prediction": answer} | ({"probabilities": shares} if shares else {})
            lines.append(json.dumps(record, ensure_ascii=False))
        else:
            lines.append("\t".join(str(value) for value in (index, answer, *shares.values())))
    path.write_text("\n".join(lines) + "\n")
