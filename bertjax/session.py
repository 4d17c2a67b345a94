"""What pretraining and fine-tuning have in common: a run folder that is begun or resumed, and trained to the end."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
from jax.sharding import Mesh

from bertjax.automesh import Chosen, mesh_of, phases, shortage, takes_less, tell
from bertjax.chips import chip_of
from bertjax.config import Finetune, Pretrain
from bertjax.contracts import Compute, ModelConfig, Objective, Params
from bertjax.data.mixture import Mixture
from bertjax.data.phases import Phase, Phases, phase_after
from bertjax.data.sources import Position
from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import ConfigError, MemoryShort, lacked_memory
from bertjax.jsonio import from_json, to_json, write_json
from bertjax.memory import machines
from bertjax.paths import as_path, remote, send
from bertjax.resume import check_fingerprint, check_resume, fingerprint
from bertjax.saved import computed_by
from bertjax.train import hosts
from bertjax.train.checkpoint import Checkpoint, Checkpoints
from bertjax.train.guard import Diverged
from bertjax.train.hang import watched
from bertjax.train.log import ROLLED_BACK, Writer, console, read_metrics
from bertjax.train.loop import Every, Fit, Hook, fit
from bertjax.train.mesh import check_batch, local_rows
from bertjax.train.optim import Schedule
from bertjax.train.padding import resized
from bertjax.train.profile import Profiler, profiled
from bertjax.train.saver import Saver, require_room, tidy
from bertjax.train.state import TrainState, init_state, planned_state, stored_state
from bertjax.train.step import TrainStep, Update, make_train_step
from bertjax.train.steps import steps_of
from bertjax.train.stop import REQUEST
from bertjax.train.window import Rates


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
    save_sync: bool = False
    patience: int = 0
    frozen: tuple[str, ...] = ()  # top-level parameters that are not trained
    sequences: int = 1  # of a row: one for each choice, where its data have some

    @property
    def total_steps(self) -> int:
        """Of all phases."""
        return sum(steps for steps, _ in self.phases)

    def phase_after(self, done: int) -> int:
        """The number of the phase that has the step after so many."""
        return phase_after(done, list(accumulate(steps for steps, _ in self.phases)))


def train(session: Session) -> TrainState:
    """Begins or resumes the run in `config.out` and trains to its last step."""
    REQUEST.works_on(session.config.out, session.config.grace)
    run = as_path(session.config.out)
    with watched(session.config.hang_timeout, run, jax.process_index()):
        return _train(session, run)


def _train(session: Session, run: Path) -> TrainState:
    config = session.config
    schedule = config.optimizer.schedule(session.total_steps)
    if short := schedule.short:
        console.print(f"{session.command}: {short}")
    optimizer = config.optimizer.build(session.total_steps, session.frozen)
    chosen, found = _agree(session, run, optimizer)
    mesh = chosen.mesh
    extra = _resume(session, run, found) if found else {}
    with hosts.together():
        if hosts.first():
            tidy(run, found.damaged if found else ())
    like, stored = (of(session.objective, optimizer, mesh) for of in (planned_state, stored_state))
    if found:
        state = resized(found.state(stored), like)
    else:
        trained = session.trained_parts(mesh)
        state = init_state(session.objective, optimizer, seed=config.seed, mesh=mesh, trained=trained)
        console.print(
            f"{session.command}: {run} begins; device {mesh.devices.flat[0].device_kind}, mesh {dict(mesh.shape)}"
        )
    steps = [count for count, _ in session.phases]
    if said := shortage(config, session.model, chosen, like, steps, found.number if found else 0, session.sequences):
        console.print(f"{session.command}: {said}")
    with hosts.together():
        if hosts.first():
            require_room(run, state, keep_last=session.keep_last)
    constant = _describe(session, run)
    fixed = Fit(
        step=training_step(config, session.objective, optimizer, schedule, mesh),
        mesh=mesh,
        loss_terms=session.objective.loss_terms,
        evaluate=session.evaluation(mesh),
        every=session.every,
        total_steps=session.total_steps,
        rates=Rates(schedule, _peak_flops(mesh)),
        flops_per_token=session.flops_per_token,
        profiler=Profiler(*profiled(config.profile), _traces(run)),
        guard=config.guard,
        patience=session.patience,
    )
    rollbacks = 0
    with fixed.profiler:
        while True:
            try:
                return _fit(session, fixed, state, extra, constant, stored)
            except Diverged as bad:
                found, extra = _before(session, run, bad, rollbacks)
            rollbacks += 1
            state = resized(found.state(stored), like)  # once the failure, whose frames hold the last one, is gone


def _fit(
    session: Session,
    fixed: Fit,
    state: TrainState,
    extra: Mapping[str, Any],
    constant: Mapping[str, Any],
    stored: TrainState,
) -> TrainState:
    """From the step of `state`, with the rest of its checkpoint, to the last one, or to a failure."""
    run, number = as_path(session.config.out), int(state.step)
    saver = Saver(
        run,
        keep_last=session.keep_last,
        sync=session.save_sync,
        best=session.best,
        constant=constant,
        leader=extra.get("leader", ()),
        stored=stored,
        phase_of=lambda step: session.phase_after(step - 1),
    )
    writer = Writer(
        run, total_steps=session.total_steps, start_step=number, title=session.command, since=REQUEST.taken_up
    )
    phases = [Phase(steps, mixture, local_rows(mixture.batch_size, fixed.mesh)) for steps, mixture in session.phases]
    places = tuple(Position(*place) for place in extra.get("loader", ()))
    batches = Phases(phases, done=number, places=places, workers=session.workers)
    try:
        if ROLLED_BACK in extra:
            saver.forget(after=number)
            writer.note(number, ROLLED_BACK, *extra[ROLLED_BACK])
        return fit(fixed, state, batches, begun=extra, saver=saver, writer=writer)
    except jax.errors.JaxRuntimeError as error:
        if said := lacked_memory(error):
            raise MemoryShort(f"{said}: {takes_less(session.config, fixed.mesh)}") from error
        raise
    finally:
        writer.close()
        REQUEST.take_up()
        batches.close()
        saver.close()


ROLLBACKS = 3  # after which a run stops all the same


def _before(session: Session, run: Path, bad: Diverged, rollbacks: int) -> tuple[Checkpoint, dict[str, Any]]:
    """The last checkpoint before a failure; its `extra` with the places after it, and what to tell under ROLLED_BACK.

    Raises where the run stops.
    """
    if session.config.guard.then == "stop":
        hosts.stopped_together()
        raise bad
    found = Checkpoints(run).latest_good(bad.first) if any(step < bad.first for step in steps_of(run)) else None
    why = "" if found else "there is no checkpoint before them"
    if rollbacks == ROLLBACKS:
        why = f"the run has gone back {rollbacks} times already"
    elif found and session.phase_after(found.number) != session.phase_after(bad.last):
        why = "a length phase begins in between"
    if why or not found:
        hosts.stopped_together()
        raise Diverged(f"{bad} Not rolled back, as {why}.", bad.first, bad.last, bad.after) from bad
    number = found.number
    told = [line for line in read_metrics(run) if line["step"] > number and "examples" in line]
    about = {"from": bad.last, "why": str(bad), "steps": told}
    text = f"goes on from here after the failure in steps {bad.first} to {bad.last}, with the data after it"
    places = [Position(*place)._replace(step=number) for place in bad.after]
    return found, {**found.extra, "loader": places, ROLLED_BACK: (about, text)}


def training_step(
    config: Pretrain | Finetune, objective: Objective, optimizer: Update, schedule: Schedule, mesh: Mesh
) -> TrainStep:
    """The step of a run: what is planned, shown and trained."""
    objective = objective.using(Compute(config.remat, config.attention, mesh))
    return make_train_step(objective, optimizer, mesh, micro_batches=config.micro_batches, schedule=schedule)


def _peak_flops(mesh: Mesh) -> float:
    """Of all devices together, in bf16; 0 where it is not known."""
    chip = chip_of(mesh.devices.flat[0].device_kind)
    return chip.flops * mesh.size if chip else 0.0


def _traces(run: Path) -> Path:
    """Where the profiler writes: of several processes each apart, as it calls its files by the host."""
    several = jax.process_count() > 1
    return run / "profile" / f"process-{jax.process_index()}" if several else run / "profile"


def _agree(session: Session, run: Path, optimizer: Update) -> tuple[Chosen, Checkpoint | None]:
    """The mesh, and the checkpoint to go on from, in which all processes must agree."""
    config, known = session.config, machines()
    with hosts.together() as facts:
        chosen = mesh_of(
            config, session.model, session.objective, optimizer, machines=known, sequences=session.sequences
        )
        tell(chosen, jax.device_count())
        buckets = config.buckets if isinstance(config, Finetune) else ()
        for phase in phases(config):
            check_batch(phase.batch_size, (*buckets, phase.length), config.micro_batches, chosen.mesh)
        found = Checkpoints(run).latest_good() if steps_of(run) else None
        options = {name: value for name, value in to_json(config).items() if name not in ("data", "out")}
        facts += [
            json.dumps([options, dict(chosen.mesh.shape), found and found.number]),
            session.tokenizer.hash,
            session.data_hash,
        ]
    return chosen, found


def _describe(session: Session, run: Path) -> dict[str, Any]:
    """Writes RUN/config.json and RUN/tokenizer; gives what goes into every checkpoint of the run."""
    config = {"command": session.command, "config": to_json(session.config), "model": to_json(session.model)}
    if hosts.first():
        write_json(run / "config.json", {**config, "versions": computed_by()})
        _save_tokenizer(session.tokenizer, run / "tokenizer")
    return {
        **config,
        "tokenizer": session.tokenizer.to_json(),
        "data_hash": session.data_hash,
        "versions": computed_by(),
    }


def _save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    if not remote(folder):
        tokenizer.save(folder)
        return
    with TemporaryDirectory(prefix="bertjax-") as here:
        tokenizer.save(Path(here))
        send(Path(here), folder)


def _resume(session: Session, run: Path, found: Checkpoint) -> dict[str, Any]:
    """The `extra` of the checkpoint to go on from; it must be of the same run."""
    extra = found.extra
    if extra["command"] != session.command:
        raise ConfigError(f"{run} is a {extra['command']} run; give another --out")
    where = f"{run}/checkpoints/{found.number}"
    stored = from_json(type(session.config), extra["config"], where)
    said = check_resume(stored, session.config, str(run))
    model, tokenizer = from_json(ModelConfig, extra["model"], where), Tokenizer.from_json(extra["tokenizer"])
    of_run = fingerprint(tokenizer, model, extra["data_hash"], extra["versions"])
    of_this = fingerprint(session.tokenizer, session.model, session.data_hash, computed_by())
    said += check_fingerprint(of_run, of_this, run)
    done = ": it is done, there is nothing to train" if found.number == session.total_steps else ""
    console.print(f"{session.command}: {run} resumes after step {found.number} of {session.total_steps}{done}")
    for text in said:
        console.print(f"{session.command}: {text}")
    return extra
