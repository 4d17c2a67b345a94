"""A model and the rows of a task: batches to train on, logits, metrics, and the files they are kept in."""

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from rich.table import Table

from bertjax.compiled import inference
from bertjax.config import Finetune
from bertjax.contracts import AttentionKind, Compute, Objective, Output, Params, Prediction, Task
from bertjax.data.examples import ExampleSource
from bertjax.data.rows import Example, HostBatch
from bertjax.data.sources import Position
from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import ConfigError
from bertjax.jsonio import write_json
from bertjax.paths import write_text
from bertjax.saved import SavedRun, versions
from bertjax.train.hang import moved
from bertjax.train.log import answers, console
from bertjax.train.mesh import MeshConfig, local_rows, make_mesh, put_batch, row_ways
from bertjax.train.state import TrainState

NOT_TRAINED_ON = "not_trained_on.json"  # in the folder of a run
ROWS = 64  # of a batch that is scored, not trained on
OFTEN = 15.0  # seconds between two lines that tell how far it is


def trainable(task: Task, rows: Sequence[Any]) -> tuple[list[Any], list[str]]:
    """The rows without a fault, and the faults of the others; how many there are is told."""
    faults = list(map(task.fault, rows))
    found = [fault for fault in faults if fault]
    if found:
        console.print(
            f"{task.name}: {len(found):,} of {len(rows):,} rows are not trained on; {NOT_TRAINED_ON} lists them"
        )
    return [row for row, fault in zip(rows, faults, strict=True) if not fault], found


def draw(rows: Sequence[Any], count: int, seed: int) -> list[Any]:
    """`count` rows drawn by the seed, in their order; all of them for 0."""
    if count > len(rows):
        raise ConfigError(f"train_rows={count} but the task has {len(rows)} rows; lower it or leave it out")
    chosen = np.sort(np.random.default_rng(seed).permutation(len(rows))[: count or len(rows)])
    return [rows[i] for i in chosen]


def training_batches(task: Task, rows: Sequence[Any], tokenizer: Tokenizer, config: Finetune) -> ExampleSource:
    """Batches of a task's rows, shuffled anew each epoch."""
    return ExampleSource(
        weighted(task.encode(rows, tokenizer, config.length), task, config.class_weights),
        batch_size=config.batch_size,
        length=config.length,
        pad=tokenizer.pad_id,
        shuffle=True,
        drop_last=True,
        seed=config.seed,
        buckets=config.buckets,
    )


def weighted(examples: Sequence[Example], task: Task, class_weights: Sequence[str]) -> list[Example]:
    """Examples that count as much as `class_weights` say of their label."""
    if not class_weights:
        return list(examples)
    labels = [example.get("label") for example in examples]
    if task.head != "classify" or not task.labels:
        raise ConfigError(f"class_weights are for classes of texts, which {task.name} has not; leave them out")
    try:
        if list(class_weights) == ["balanced"]:
            weights = [len(labels) / (len(task.labels) * max(1, labels.count(i))) for i in range(len(task.labels))]
        else:
            weights = [float(weight) for weight in class_weights]
    except ValueError:
        weights = []
    if len(weights) != len(task.labels) or not all(0 < weight < math.inf for weight in weights):
        raise ConfigError(
            f"class_weights={' '.join(class_weights)}: give `balanced`, or a number above 0 for each of "
            f"{', '.join(task.labels)}"
        )
    return [{**example, "weight": weights[example["label"]]} for example in examples]


class Scorer:
    """Predictions and metrics of rows; called with a state it is the evaluation of a training run."""

    def __init__(
        self,
        task: Task,
        rows: Sequence[Any],
        tokenizer: Tokenizer,
        objective: Objective,
        mesh: Mesh,
        *,
        length: int,
        buckets: Sequence[int] = (),
        batch_size: int = ROWS,
        attention: AttentionKind = "auto",
    ) -> None:
        ways = row_ways(mesh)
        batch_size = -(-batch_size // ways) * ways
        self._task, self._rows, self._mesh = task, rows, mesh
        self._examples = task.encode(rows, tokenizer, length)
        self._source = ExampleSource(
            self._examples,
            batch_size=batch_size,
            length=length,
            pad=tokenizer.pad_id,
            shuffle=False,
            drop_last=False,
            buckets=buckets,
        )
        self._own = local_rows(batch_size, mesh)
        objective = objective.using(Compute(attention=attention, mesh=mesh))
        self._step = inference(
            lambda params, batch: objective.apply({"params": params}, batch, method="logits"),
            objective.model.forward_flops(length) * len(self._examples),
            out_shardings=NamedSharding(mesh, PartitionSpec()),  # every process has them all
        )
        self._last: tuple[int, list[Output]] = (-1, [])  # evaluated step, and what it gave, of a task that writes files

    def __call__(self, state: TrainState) -> dict[str, float]:
        """The metrics, and what is tuned on these rows."""
        outputs = self._outputs(state.params)
        if self._task.writes:
            self._last = int(state.step), outputs
        predictions = self._decode(outputs, {})
        tuned = self._task.tune(predictions, self._rows)
        return self._task.score(self._decode(outputs, tuned) if tuned else predictions, self._rows) | tuned

    def predictions(self, params: Params, tuned: Mapping[str, float]) -> list[Prediction]:
        """Of all rows, with what was tuned on others."""
        return self._decode(self._outputs(params), tuned)

    def predictions_at(self, step: int, params: Callable[[], Params], tuned: Mapping[str, float]) -> list[Prediction]:
        """The same of a step of the run, whose parameters are not read where it was the last to be evaluated."""
        last, outputs = self._last
        return self._decode(outputs, tuned) if last == step else self.predictions(params(), tuned)

    def _decode(self, outputs: Sequence[Output], tuned: Mapping[str, float]) -> list[Prediction]:
        return self._task.decode(outputs, self._examples, self._rows, tuned)

    def _outputs(self, params: Params) -> list[Output]:
        """The logits of every example, in their order whatever the order of the batches."""
        made: list[np.ndarray] = []
        tell = _Progress(len(self._examples))
        for number in range(self._source.batches(0, 0)):
            made.extend(self._logits(params, self._source.batch(Position(0, 0, number), self._own)))
            tell(len(made))
        outputs = dict(zip(self._source.order(0).tolist(), made, strict=False))  # rows of weight 0 come last
        return [outputs[number] for number in range(len(self._examples))]

    def _logits(self, params: Params, batch: HostBatch) -> np.ndarray:
        made = np.asarray(self._step(params, put_batch(batch, self._mesh)))
        moved()
        return made


class _Progress:
    """Tells now and then how far it is, of what takes longer."""

    def __init__(self, total: int) -> None:
        self._total, self._began = total, time.monotonic()
        self._told = self._began

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        if now < self._told + OFTEN or done >= self._total:
            return
        self._told = now
        left = (now - self._began) / done * (self._total - done)
        console.print(f"scored {done:,} of {self._total:,} examples; {left:.0f} s to go")


def predictions_of(saved: SavedRun, task: Task, rows: Sequence[Any], batch_size: int) -> list[Prediction]:
    """What a fine-tuned run says of rows, over all devices."""
    objective, mesh = saved.objective(), make_mesh(MeshConfig())
    length, buckets = saved.config.length, saved.config.buckets if isinstance(saved.config, Finetune) else ()
    scorer = Scorer(task, rows, saved.tokenizer, objective, mesh, length=length, buckets=buckets, batch_size=batch_size)
    return scorer.predictions(saved.params(objective, mesh), saved.figures)


def write_scores(
    path: Path,
    task: Task,
    split: str,
    figures: Mapping[str, float],
    rows: Mapping[str, Sequence[Any]],
    about: Mapping[str, Any],
) -> None:
    """Scores with what is needed to get them again, as a file and on the screen."""
    data = {name: {"rows": len(part), "sha256": digest(part)} for name, part in rows.items()}
    metrics = {name: figures[name] for name in task.metrics if name in figures}
    scores = {"task": task.name, "split": split, "metrics": metrics, **about, "data": data, "versions": versions()}
    write_json(path, scores)
    of = f", checkpoint of epoch {about['epoch']:g}, the best" if "epoch" in about else ""
    table = Table(title=f"{task.name} {split}{of}", title_justify="left")
    table.add_column("model")
    for name in metrics:
        table.add_column(name, justify="right")
    others = {f"this run, {name}": values for name, values in about.get("also", {}).items()}
    for model, values in {"this run": metrics, **others, **about.get("baseline", {})}.items():
        table.add_row(model, *(f"{values[name]:.4f}" for name in metrics))
    answers.print(table)
    console.print(f"scores in {path}")


def write_files(folder: Path, suffix: str, task: Task, predictions: Sequence[Prediction], rows: Sequence[Any]) -> None:
    """What the task's official scorer reads, as NAME + suffix + .json."""
    for name, content in task.files(predictions, rows).items():
        write_json(folder / f"{name}{suffix}.json", content)


def write_submission(folder: Path, task: Task, split: str, predictions: Sequence[Prediction]) -> bool:
    """What the task's leaderboard takes of this split, in folder/submission/; False where it takes nothing."""
    files = task.submission(split, predictions)
    for name, table in files.items():
        write_tsv(folder / "submission" / name, table)
        console.print(
            f"{task.name}: {len(table) - 1:,} predictions for the leaderboard in {folder / 'submission' / name}"
        )
    return bool(files)


def digest(rows: Sequence[Any]) -> str:
    """SHA-256 of what the rows hold."""
    return hashlib.sha256(json.dumps([tuple(row) for row in rows]).encode()).hexdigest()


def shortened(predictions: Sequence[Prediction], top: int, task: str) -> list[Prediction]:
    """Predictions with the `top` best of their ranked answers."""
    if not all("best" in prediction for prediction in predictions):
        raise ConfigError(f"top={top} is for ranked answers, and {task} has none; leave it out")
    return [{**prediction, "best": prediction["best"][:top]} for prediction in predictions]


def write_predictions(path: Path, task: Task, predictions: Sequence[Prediction]) -> None:
    """The predictions in their order, as JSON lines where the name ends in .jsonl, else as TSV."""
    rounded = [_rounded(prediction) for prediction in predictions]
    if path.suffix == ".jsonl":
        lines = [json.dumps({"index": i, **record}, ensure_ascii=False) for i, record in enumerate(rounded)]
        write_text(path, "\n".join(lines) + "\n")
    else:
        write_tsv(path, task.table(rounded))


def write_tsv(path: Path, table: Sequence[Sequence[Any]]) -> None:
    """Rows with a tab between fields."""
    write_text(path, "".join("\t".join(map(str, row)) + "\n" for row in table))


def _rounded(value: Any) -> Any:  # noqa: ANN401 (any JSON value)
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return round(value, 6) if isinstance(value, float) else value
