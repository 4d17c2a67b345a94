"""What pretraining and fine-tuning have in common: a run folder that is begun or resumed, and trained to the end."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from bertjax.automesh import mesh_of
from bertjax.chips import chip_of
from bertjax.config import Finetune, Pretrain, profiled
from bertjax.contracts import Compute, ModelConfig, Objective, Params
from bertjax.data.mixture import Mixture
from bertjax.data.phases import Phase, Phases
from bertjax.data.sources import Position
from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import ConfigError
from bertjax.jsonio import from_json, to_json, write_json
from bertjax.resume import check_resume
from bertjax.saved import versions
from bertjax.train import hosts
from bertjax.train.checkpoint import Checkpoints, Step
from bertjax.train.log import Writer, console
from bertjax.train.loop import Every, Fit, Hook, fit
from bertjax.train.mesh import check_batch, local_rows
from bertjax.train.profile import Profiler
from bertjax.train.saver import Saver, require_room, tidy
from bertjax.train.step import TrainState, TrainStep, Update, abstract_state, init_state, make_train_step
from bertjax.train.steps import steps_of
from bertjax.train.window import Rates, Window


@dataclass(frozen=True)
class Session:
    """What a verb decides; `train` does the rest."""

    command: str
    config: Pretrain | Finetune
    model: ModelConfig
    objective: Objective
    tokenizer: Tokenizer
    data_hash: str
    phases: Sequence[tuple[int, Mixture]]  # steps, and where their batches come from
    every: Every
    best: str  # the figure that chooses the best checkpoint, "-loss" for the lowest loss
    keep_last: int
    workers: int
    evaluation: Callable[[Mesh], Hook]
    flops_per_token: Callable[[int], float]  # of training, in a row of so many tokens
    trained_parts: Callable[[Mesh], Params]  # parameters that do not start at random
    patience: int = 0
    frozen: tuple[str, ...] = ()  # top-level parameters that are not trained

    @property
    def total_steps(self) -> int:
        """Of all phases."""
        return sum(steps for steps, _ in self.phases)


def train(session: Session) -> TrainState:
    """Begins or resumes the run in `config.out` and trains to its last step."""
    config, run = session.config, Path(session.config.out)
    optimizer = config.optimizer.build(session.total_steps, session.frozen)
    mesh, found = _agree(session, run, optimizer)
    number = found.number if found else 0
    extra = _resume(session, run, found) if found else {"loader": [], "window": {}, "leader": []}
    with hosts.together():
        if hosts.first():
            tidy(run, found.damaged if found else ())
    state = init_state(session.objective, optimizer, seed=config.seed, mesh=mesh)
    if found:
        state = found.state(abstract_state(state))
    else:
        state = replace(state, params=_merged(state.params, session.trained_parts(mesh)))
        console.print(
            f"{session.command}: {run} begins; device {mesh.devices.flat[0].device_kind}, mesh {dict(mesh.shape)}"
        )
    with hosts.together():
        if hosts.first():
            require_room(run, state, keep_last=session.keep_last)
    step = training_step(config, session.objective, optimizer, mesh)
    constant = _describe(session, run)
    fixed = Fit(
        step=step,
        mesh=mesh,
        loss_terms=session.objective.loss_terms,
        evaluate=session.evaluation(mesh),
        every=session.every,
        total_steps=session.total_steps,
        rates=Rates(config.optimizer.schedule(session.total_steps), _peak_flops(mesh)),
        flops_per_token=session.flops_per_token,
        profiler=Profiler(*profiled(config.profile), run / "profile"),
        patience=session.patience,
    )
    saver = Saver(
        run, keep_last=session.keep_last, best=session.best, constant=constant, leader=extra.get("leader", ())
    )
    phases = [Phase(steps, mixture, local_rows(mixture.batch_size, mesh)) for steps, mixture in session.phases]
    places = tuple(Position(*place) for place in extra["loader"])
    batches = Phases(phases, done=number, places=places, workers=session.workers)
    writer = Writer(run, total_steps=session.total_steps, start_step=number, title=session.command)
    try:
        return fit(fixed, state, batches, window=Window.from_json(extra["window"]), saver=saver, writer=writer)
    finally:
        writer.close()
        batches.close()
        saver.close()


def training_step(config: Pretrain | Finetune, objective: Objective, optimizer: Update, mesh: Mesh) -> TrainStep:
    """The step of a run: what is planned, shown and trained."""
    objective = objective.using(Compute(config.remat, config.attention, mesh))
    return make_train_step(objective, optimizer, mesh, micro_batches=config.micro_batches)


def _peak_flops(mesh: Mesh) -> float:
    """Of all devices together, in bf16; 0 where it is not known."""
    chip = chip_of(mesh.devices.flat[0].device_kind)
    return chip.flops * mesh.size if chip else 0.0


def _merged(random: Params, trained: Params) -> Params:
    """The parameters with all that is trained in the place of what is random."""
    return {
        name: _merged(value, trained[name]) if isinstance(trained.get(name), dict) else trained.get(name, value)
        for name, value in random.items()
    }


def _agree(session: Session, run: Path, optimizer: Update) -> tuple[Mesh, Step | None]:
    """The mesh, and the checkpoint to go on from, in which all processes must agree."""
    config = session.config
    hosts.check_shared(run)
    with hosts.together() as facts:
        mesh = mesh_of(config, session.model, session.objective, optimizer)
        for _, mixture in session.phases:
            check_batch(mixture.batch_size, config.micro_batches, mesh)
        found = Checkpoints(run).latest_good() if steps_of(run) else None
        options = {name: value for name, value in to_json(config).items() if name not in ("data", "out")}
        facts += [
            json.dumps([options, dict(mesh.shape), found and found.number]),
            session.tokenizer.hash,
            session.data_hash,
        ]
    return mesh, found


def _describe(session: Session, run: Path) -> dict[str, Any]:
    """Writes RUN/config.json and RUN/tokenizer; gives what goes into every checkpoint of the run."""
    config = {"command": session.command, "config": to_json(session.config), "model": to_json(session.model)}
    if hosts.first():
        write_json(run / "config.json", {**config, "versions": versions()})
        session.tokenizer.save(run / "tokenizer")
    return {**config, "tokenizer": session.tokenizer.to_json(), "data_hash": session.data_hash}


def _resume(session: Session, run: Path, found: Step) -> dict[str, Any]:
    """The `extra` of the checkpoint to go on from; it must be of the same run."""
    extra = found.extra
    if extra["command"] != session.command:
        raise ConfigError(f"{run} is a {extra['command']} run; give another --out")
    stored = from_json(type(session.config), extra["config"], f"{run}/checkpoints/{found.number}")
    check_resume(stored, session.config, str(run))
    if Tokenizer.from_json(extra["tokenizer"]).hash != session.tokenizer.hash:
        raise ConfigError(
            f"{run} was trained with another vocabulary than this; prepare the data with --tokenizer {run}/tokenizer, "
            "or give another --out"
        )
    if extra["data_hash"] != session.data_hash:
        raise ConfigError(f"{run} was begun with other data than what --data holds now; give that, or another --out")
    console.print(f"{session.command}: {run} resumes after step {found.number} of {session.total_steps}")
    return extra
