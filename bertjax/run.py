"""The verbs: each wires corpus or task, objective and tokenizer together and hands them on."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

from jax.sharding import Mesh

from bertjax import pretraining, scoring, session, tasks
from bertjax.config import Finetune, Pretrain, check_length
from bertjax.contracts import Params, Task
from bertjax.data.mixture import Mixture
from bertjax.errors import ConfigError
from bertjax.folders import check_file, check_out
from bertjax.jsonio import write_json
from bertjax.paths import as_path
from bertjax.saved import SavedRun, head, open_run
from bertjax.tasks._tfidf import tfidf_scores
from bertjax.train import hosts
from bertjax.train.log import console
from bertjax.train.loop import Every
from bertjax.train.mesh import make_mesh
from bertjax.use import Evaluate, Predict


def pretrain(config: Pretrain) -> None:
    """A prepared corpus -> RUN with checkpoints and metrics."""
    with hosts.together():
        check_out(as_path(config.out))
        prepared = pretraining.session_of(config)
    with hosts.writing(as_path(config.out)):
        session.train(prepared)


def finetune(config: Finetune) -> None:
    """A run and a task -> RUN2 with checkpoints and the scores of the best one on dev."""
    with hosts.together():
        config = replace(config, columns=tasks.resolved(config.task, config.columns, config.data))
        saved, out = open_run(config.source), as_path(config.out)
        check_out(out)
        task = tasks.with_settings(tasks.find(config.task, config.columns), config.task_settings)
        check_length(config.length, saved.model)
        rows, faults = _rows(config, task)
        tfidf = config.baseline == "tfidf"
        baseline = {"baseline": {"tfidf": tfidf_scores(task, rows["train"], rows["dev"])}} if tfidf else {}
        also = {split: task.read(config.data, split) for split in task.also}
        over_encoder = head(task, config)
        objective = over_encoder.build(saved.model)
        source = scoring.training_batches(task, rows["train"], saved.tokenizer, config)
        steps = source.batches(0, 0)

    @cache
    def scorer(mesh: Mesh) -> scoring.Scorer:
        how: dict[str, Any] = {name: getattr(config, name) for name in ("length", "buckets", "attention")}
        return scoring.Scorer(task, rows["dev"], saved.tokenizer, objective, mesh, **how)

    def trained_parts(mesh: Mesh) -> Params:
        if config.encoder == "random":
            return {}
        return saved.encoder_params(objective, mesh, new_layers=config.new_layers)

    prepared = session.Session(
        command="finetune",
        config=config,
        model=saved.model,
        objective=objective,
        tokenizer=saved.tokenizer,
        data_hash=scoring.digest(rows["train"] + rows["dev"]),
        phases=[(config.epochs * steps, Mixture((source,)))],
        every=Every(config.log_every, evaluate=steps, save=steps),
        best=task.metrics[0],
        keep_last=1,
        workers=0,
        evaluation=scorer,
        flops_per_token=lambda length: over_encoder.flops_per_token(saved.model, length) / (3 if config.frozen else 1),
        trained_parts=trained_parts,
        patience=config.patience,
        frozen=("encoder",) if config.frozen else (),
        sequences=max(1, source.choices),
    )
    with hosts.writing(out):
        session.train(prepared)
        best, mesh = open_run(config.out), make_mesh(config.mesh)
        scored = {name: _score(best, task, part) for name, part in also.items()}
        about = {"also": scored, "epoch": best.step / steps, **_begun(config)}
        of_best = (best.step, partial(best.params, objective, mesh), best.figures)
        predictions = scorer(mesh).predictions_at(*of_best) if task.writes else []
        if hosts.first():
            if faults:
                write_json(out / scoring.NOT_TRAINED_ON, faults)
            scoring.write_files(out, "", task, predictions, rows["dev"] if predictions else [])
            scoring.write_scores(out / "scores.json", task, "dev", best.figures, rows | also, about | baseline)
        hosts.meet("scores")  # which the rest of a suite reads


def _begun(config: Finetune) -> dict[str, Any]:
    """What a run began with, as its scores tell it."""
    return {"encoder": config.encoder, "from": config.source, "seed": config.seed}


def _rows(config: Finetune, task: Task) -> tuple[dict[str, list[Any]], list[str]]:
    """Of a split the rows that are trained or scored on, and the faults of those left out."""
    kept, faults = scoring.trainable(task, task.read(config.data, "train"))
    train = scoring.draw(kept, config.train_rows, config.seed)
    return {"train": train, "dev": task.read(config.data, "dev")}, faults


def _score(saved: SavedRun, task: Task, rows: Sequence[Any]) -> dict[str, float]:
    return task.score(scoring.predictions_of(saved, task, rows, scoring.ROWS), rows)


def evaluate(config: Evaluate) -> None:
    """A fine-tuned run on a split of its task -> scores on the screen and in a file."""
    with hosts.together():
        saved = open_run(config.run, "finetune")
        task, split = saved.task(config.task), config.split
        rows = task.read(config.data, split)
    predictions = scoring.predictions_of(saved, task, rows, config.batch_size)
    if not hosts.first():
        return
    other = isinstance(saved.config, Finetune) and config.task not in ("", saved.config.task)
    name = f"{config.task}-{split}" if other else split
    out = as_path(config.out or saved.path / f"scores-{name}.json")
    if scoring.write_submission(out.parent, task, split, predictions) and rows[0].label is None:
        return
    figures = task.score(predictions, rows)
    scoring.write_files(out.parent, f"-{split}", task, predictions, rows)
    scoring.write_scores(out, task, split, figures, {split: rows}, {"run": config.run, "step": saved.step})


def predict(config: Predict) -> None:
    """A fine-tuned run on a file of the user's -> a prediction of every row, and how sure the model is."""
    with hosts.together():
        saved = open_run(config.run, "finetune")
        task = saved.task(config.task)
        rows = task.read_inputs(config.input)
        if config.top and task.head == "span" and not config.out.endswith(".jsonl"):
            raise ConfigError(f"top={config.top}: TSV has the best answer alone; give --out NAME.jsonl")
        if hosts.first():
            check_file(as_path(config.out))
    predictions = scoring.predictions_of(saved, task, rows, config.batch_size)
    if config.top:
        predictions = scoring.shortened(predictions, config.top, task.name)
    if hosts.first():
        scoring.write_predictions(as_path(config.out), task, predictions)
        console.print(f"predict: {len(predictions):,} predictions in {config.out}")
