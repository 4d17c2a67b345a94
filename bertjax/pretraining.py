"""What `pretrain` trains, and on what: prepared corpora, the model that fits them or another run's, held-out text."""

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache, partial
from itertools import accumulate, islice

from jax.sharding import Mesh

from bertjax import session
from bertjax.config import PhaseConfig, Pretrain, check_length, with_vocabulary
from bertjax.contracts import Compute, Params
from bertjax.data.masking import Vocab
from bertjax.data.meta import FEW_SENTENCES, Meta, again, sentences_a_document
from bertjax.data.mixture import Mixture, Places, shares
from bertjax.data.phases import phase_after
from bertjax.data.plan import next_sentence, sentence_order
from bertjax.data.rows import HostBatch
from bertjax.data.sources import CorpusSource, Position
from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import ConfigError, DataError
from bertjax.paths import as_path
from bertjax.saved import Imported, open_run
from bertjax.train.log import averages, console
from bertjax.train.loop import Every, Hook, mean_metrics
from bertjax.train.mesh import local_rows
from bertjax.train.state import TrainState
from bertjax.train.step import make_eval_step
from bertjax.train.steps import listed


def session_of(config: Pretrain) -> session.Session:
    """What `pretrain` trains, on what, and what it says of held-out text."""
    tokenizer, config = resolve(config)
    _check_pairs(config)
    objective = config.objective.build(config.model)
    held_out = [mixture_of(config, tokenizer, "valid", phase) for phase in config.phases]
    ends = list(accumulate(phase.steps for phase in config.phases))

    def evaluation(mesh: Mesh) -> Hook:
        step = make_eval_step(objective.using(Compute(attention=config.attention, mesh=mesh)))

        @lru_cache(maxsize=1)
        def batches(phase: int) -> list[HostBatch]:
            mixture = held_out[phase]
            rows = local_rows(mixture.batch_size, mesh)
            parts = [rows[part :: config.micro_batches] for part in range(config.micro_batches)]
            places = islice(one_epoch(mixture, config.steps), config.eval_batches)
            return [mixture.batch(place, part) for place in places for part in parts]

        def figures(state: TrainState) -> dict[str, float]:
            made = batches(phase_after(int(state.step) - 1, ends))  # as those of the last step
            return averages(mean_metrics(step, state, iter(made), mesh), objective.loss_terms)

        return figures

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
        phases=[(phase.steps, mixture_of(config, tokenizer, "train", phase)) for phase in config.phases],
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


def mixture_of(config: Pretrain, tokenizer: Tokenizer, split: str, phase: PhaseConfig) -> Mixture:
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
