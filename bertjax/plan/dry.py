"""`bertjax pretrain --dry-run`: what a run would take of this machine, and whether that fits."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from rich.table import Table

from bertjax.automesh import mesh_of, tell
from bertjax.config import PhaseConfig, Pretrain
from bertjax.data.meta import Meta
from bertjax.data.mixture import Mixture
from bertjax.memory import fits, verdict
from bertjax.plan.program import compiled_step
from bertjax.plan.topology import LOCAL
from bertjax.pretraining import session_of
from bertjax.session import training_step
from bertjax.train.log import TEMPORARIES, answers, memory_table
from bertjax.train.mesh import abstract_batch, bytes_on_device, check_batch
from bertjax.train.state import TrainState, planned_state


def dry_run(config: Pretrain) -> None:
    """Compiles the step of every phase for its first batch, and tells what it takes; nothing is trained or written."""
    prepared = session_of(config)
    config, objective = replace(config, model=prepared.model), prepared.objective
    optimizer = config.optimizer.build(config.steps)
    chosen = mesh_of(config, config.model, objective, optimizer)
    tell(chosen, jax.device_count())
    mesh = chosen.mesh
    state = planned_state(objective, optimizer, mesh)
    step = training_step(config, objective, optimizer, config.optimizer.schedule(config.steps), mesh)
    for phase, (_, mixture) in zip(config.phases, prepared.phases, strict=True):
        check_batch(phase.batch_size, [phase.length], config.micro_batches, mesh)
        example = mixture.batch(mixture.start())
        batch = abstract_batch(example, len(example["tokens"]), mesh)
        trees = {"parameters": state.params, "optimizer": state.opt_state, "batch": batch}
        sizes = {name: bytes_on_device(tree) for name, tree in trees.items()}
        about = f"{phase.batch_size:,} x {phase.length:,}"
        program = compiled_step(step, state, batch, mesh, topology=LOCAL, quick=False)
        answers.print(memory_table(f"{phase.steps:,} steps of {about}", sizes | {TEMPORARIES: program.temporaries}))
        available = program.available or chosen.memory
        fitting = program.fits and fits(program.needed, available)
        mend = "; `bertjax plan` with --topology local tells what would mend it" if fitting is False else ""
        answers.print(verdict(fitting, program.needed, available) + mend)
        _print_work(config, phase, state, mixture, example)


def _print_work(
    config: Pretrain, phase: PhaseConfig, state: TrainState, mixture: Mixture, example: dict[str, np.ndarray]
) -> None:
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    slots = phase.batch_size * phase.length
    real = int(np.count_nonzero(example["sequence"]))
    flops = slots * config.objective.flops_per_token(config.model, phase.length)
    table = Table("work", "")
    table.add_row("parameters", f"{count:,}")
    table.add_row("tokens a step", f"{slots:,} ({real / slots:.0%} of them real in the first batch)")
    table.add_row("sequences a row", f"{example['sequence'].max(axis=1).mean():.1f}")
    table.add_row("steps", f"{phase.steps:,}")
    for folder, source in zip(config.data, mixture.sources, strict=True):
        share = source.batch_size / phase.batch_size
        epochs = phase.steps * real * share / Meta.load(folder).total("train", "tokens")
        table.add_row(
            f"rows of {Path(folder).name}", f"{source.batch_size:,} a step, {share:.1%} (about {epochs:,.1f} epochs)"
        )
    table.add_row("tokens in all", f"{slots * phase.steps:,}")
    table.add_row("FLOP a step, in all", f"{flops:.3g}, {flops * phase.steps:.3g}")
    answers.print(table)
