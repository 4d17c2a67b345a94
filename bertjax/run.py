"""The verbs: each wires corpus or task, objective and tokenizer together and hands them on."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import islice
from typing import Any

from jax.sharding import Mesh

from bertjax import scoring, session, tasks
from bertjax.config import Finetune, PhaseConfig, Pretrain, check_length, with_vocabulary
from bertjax.contracts import Compute, Params, Task
from bertjax.data.masking import Vocab
from bertjax.data.meta import FEW_SENTENCES, Meta, again, sentences_a_document
from bertjax.data.mixture import Mixture, Places, shares
from bertjax.data.plan import next_sentence, sentence_order
from bertjax.data.sources import CorpusSource, Position
from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import ConfigError, DataError
from bertjax.folders import check_file, check_out
from bertjax.jsonio import write_json
from bertjax.paths import as_path
from bertjax.saved import Imported, SavedRun, head, open_run
from bertjax.tasks._tfidf import tfidf_scores
from bertjax.train import hosts
from bertjax.train.log import averages, console
from bertjax.train.loop import Every, Hook, mean_metrics
from bertjax.train.mesh import local_rows, make_mesh
from bertjax.train.step import make_eval_step
from bertjax.train.steps import listed
from bertjax.use import Evaluate, Predict


def pretrain(config: Pretrain) -> None:
    """A prepared corpus -> RUN with checkpoints and metrics."""
    with hosts.together():
        check_out(as_path(config.out))
        prepared = pretraining(config)
    with hosts.writing(as_path(config.out)):
        session.train(prepared)


def pretraining(config: Pretrain) -> session.Session:
    """What `pretrain` trains, and on what."""
    tokenizer, config = resolve(config)
    _check_pairs(config)
    objective = config.objective.build(config.model)
    held_out = pretraining_batches(config, tokenizer, "valid", config.phases[0])

    def evaluation(mesh: Mesh) -> Hook:
        step = make_eval_step(objective.using(Compute(attention=config.attention, mesh=mesh)))
        rows = local_rows(held_out.batch_size, mesh)
        parts = [rows[part :: config.micro_batches] for part in range(config.micro_batches)]
        places = islice(one_epoch(held_out, config.steps), config.eval_batches)
        batches = [held_out.batch(place, part) for place in places for part in parts]
        return lambda state: averages(mean_metrics(step, state, iter(batches), mesh), objective.loss_terms)

    def trained_parts(mesh: Mesh) -> Params:
        if not config.source:
            return {}
        found = open_run(config.source).fitting_params(objective, mesh)
        console.print(f"pretrain: {', '.join(sorted(found))} from {config.source}; what else there is begins at random")
        return found

    return session.Session(
        command="pretrain",
        config=config,
        model=config.model,
        objective=objective,
        tokenizer=tokenizer,
        data_hash=" ".join(Meta.load(folder).content_hash for folder in config.data),
        phases=[(phase.steps, pretraining_batches(config, tokenizer, "train", phase)) for phase in config.phases],
        every=Every(config.log_every, config.eval_every, config.save_every),
        best="-loss",
        keep_last=config.keep_last,
        save_sync=config.save_sync,
        workers=config.workers,
        evaluation=evaluation,
        flops_per_token=partial(config.objective.flops_per_token, config.model),
        trained_parts=trained_parts,
    )


def resolve(config: Pretrain) -> tuple[Tokenizer, Pretrain]:
    """The tokenizer of the prepared data, and the config with the size of its vocabulary or the model of `source`."""
    first, *others = config.data
    meta = Meta.load(first)
    tokenizer = meta.tokenizer(as_path(first))
    for folder in config.data:
        if faults := Meta.load(folder).faults(as_path(folder)):
            raise DataError(f"{folder}: shards are missing or damaged; {again(folder)}\n  {listed(faults)}")
    for folder in others:
        if Meta.load(folder).tokenizer_hash != meta.tokenizer_hash:
            raise ConfigError(
                f"{folder} was prepared with another tokenizer than {first}; "
                f"prepare it again with --tokenizer {first}/tokenizer"
            )
    return tokenizer, _continuing(config, tokenizer) if config.source else with_vocabulary(config, meta.vocab_size)


def _check_pairs(config: Pretrain) -> None:
    """Raises where no document has the two sentences that a true pair takes, and tells where few have."""
    mean = sentences_a_document(Meta.load(folder) for folder in config.data)
    if config.objective.planner() not in (next_sentence, sentence_order) or mean >= FEW_SENTENCES:
        return
    few = (
        "every document is one sentence, so no two follow each other"
        if mean <= 1
        else f"{mean:.2f} sentences a document are few for pairs, as most rows have no two that follow each other"
    )
    said = (
        f"{' '.join(config.data)}: {few}; give --objective.examples full-sentences, or prepare documents of several "
        "sentences (blank lines part documents, not sentences)"
    )
    if mean <= 1:
        raise ConfigError(said)
    console.print(f"pretrain: {said}")


OWN = ("dropout", "attention_dropout", "dtype")  # of a model: what a run says itself that goes on from another


def _continuing(config: Pretrain, tokenizer: Tokenizer) -> Pretrain:
    """The config with the model of its source, whose vocabulary must be that of the data."""
    saved = open_run(config.source)
    there = config.source if isinstance(saved.config, Imported) else f"{config.source}/tokenizer"
    if saved.tokenizer.vocabulary != tokenizer.vocabulary:
        raise ConfigError(
            f"--from {config.source} has another vocabulary than {config.data[0]}; prepare the data with "
            f"--tokenizer {there}"
        )
    if saved.tokenizer.hash != tokenizer.hash:
        console.print(
            f"pretrain: {config.source} was trained on text cut up in another way than this (lower case, accents, "
            f"white space); data prepared with --tokenizer {there} are not"
        )
    own = {name: getattr(config.model, name) for name in OWN if hasattr(saved.model, name)}
    config = replace(config, model=replace(saved.model, **own))  # type: ignore[type-var]
    for phase in config.phases:
        check_length(phase.length, config.model)
    return config


def pretraining_batches(config: Pretrain, tokenizer: Tokenizer, split: str, phase: PhaseConfig) -> Mixture:
    """Masked rows of a split ("train" or "valid") of the prepared data, in the shape of a phase."""
    vocab = Vocab.of(tokenizer)
    weights = config.data_weights or [Meta.load(folder).total(split, "tokens") for folder in config.data]

    return Mixture(
        tuple(
            CorpusSource(
                folder,
                split,
                length=phase.length,
                batch_size=rows,
                seed=config.seed,
                vocab=vocab,
                planner=config.objective.planner(),
                corruption=config.objective.corruption(vocab, phase.length),
                steps=config.steps,
                number=number,
                packing=config.packing,
            )
            for number, (folder, rows) in enumerate(zip(config.data, shares(weights, phase.batch_size), strict=True))
        )
    )


def one_epoch(mixture: Mixture, step: int) -> Iterator[Places]:
    """Where the batches of the first epoch are, as many as all sources have, each as if at a step of the run."""
    places = (
        (
            Position(0, window, batch, step)
            for window in range(source.windows)
            for batch in range(source.batches(0, window))
        )
        for source in mixture.sources
    )
    return zip(*places, strict=False)


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
