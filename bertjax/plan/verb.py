"""`bertjax plan`: the training step of a recipe, compiled for chips that are not here, and what that tells."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from bertjax.automesh import mesh_of, tell
from bertjax.chips import Chip, gpu_share
from bertjax.config import PhaseConfig, Plan, Pretrain
from bertjax.contracts import Objective
from bertjax.data.shapes import made_up_row, made_up_vocab
from bertjax.errors import ConfigError
from bertjax.folders import check_file
from bertjax.jsonio import write_json
from bertjax.memory import fits
from bertjax.plan import tables
from bertjax.plan.cures import cures, shape_of
from bertjax.plan.estimate import estimate, roofline, work
from bertjax.plan.program import Program, compiled_step
from bertjax.plan.topology import LOCAL, devices_of
from bertjax.pretraining import resolve
from bertjax.session import training_step
from bertjax.train.log import answers
from bertjax.train.mesh import abstract_batch, bytes_on_device, check_batch, undivided_in
from bertjax.train.state import TrainState, planned_state
from bertjax.train.step import Update

MOST_OF_A_GPU = 0.95  # the rest of its memory the driver and the libraries need


@dataclass(frozen=True)
class Run:
    """What the phases of a run have in common."""

    config: Plan
    mesh: Mesh
    memory: int | None  # bytes of each device; None: nobody knows
    chip: Chip | None
    objective: Objective
    optimizer: Update
    state: TrainState  # shapes and shardings


def plan(config: Plan) -> None:
    """Compiles every phase of the run, prints what it takes and writes it as JSON."""
    if config.topology != LOCAL:  # the compiler describes the chips: those of this machine are left to others
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_enable_compilation_cache", False)  # what is compiled for others cannot be read back here
    out = Path(config.out or f"plan-{config.topology.replace(':', '-')}.json")
    if out.is_dir():
        raise ConfigError(f"--out {out} is a folder; give a file, such as {out / 'plan.json'}")
    check_file(out)
    if config.data:
        config = replace(config, model=resolve(config)[1].model)
    chip, devices = devices_of(config.topology, config.mesh.dcn)
    objective = config.objective.build(config.model)
    optimizer = config.optimizer.build(config.steps)
    chosen = mesh_of(config, config.model, objective, optimizer, devices)
    tell(chosen)
    mesh = chosen.mesh
    for phase in config.phases:
        check_batch(phase.batch_size, [phase.length], config.micro_batches, mesh)
    state = planned_state(objective, optimizer, mesh)
    run = Run(config, mesh, chosen.memory, chip, objective, optimizer, state)
    report = {
        "topology": config.topology,
        "chip": _chip(chip, devices[0], chosen.memory),
        "devices": mesh.size,
        "idle_devices": len(devices) - mesh.size,
        "mesh": dict(mesh.shape),
        "mesh_reason": chosen.reason or None,
        "undivided": _undivided(run),
        "effort": "quick" if config.quick else "full",
        "phases": [_phase(run, number) for number in range(len(config.phases))],
    }
    tables.show(report)
    write_json(out, report)
    answers.print(f"all of it: {out}")


def _chip(chip: Chip | None, device: Any, memory: int | None) -> dict[str, Any]:  # noqa: ANN401 (a device of a topology)
    """For the report; `memory` is what of a chip's can be had, of a GPU what JAX would take."""
    if not chip:
        return {"name": device.device_kind}
    return chip._asdict() | {"memory": memory} | ({"memory_share": gpu_share()} if device.platform == "gpu" else {})


def _undivided(run: Run) -> dict[str, Any]:
    """Of what a device holds: the arrays that an axis of the mesh leaves as they are."""
    left = undivided_in(run.state, run.mesh)
    largest = max(left, key=lambda path: bytes_on_device(left[path]), default="")
    return {"arrays": len(left), "bytes_per_chip": bytes_on_device(left), "such_as": largest}


def planned_batch(config: Pretrain, phase: PhaseConfig, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """What the batches of a phase will be, before there is any data."""
    vocab = made_up_vocab(config.model.vocab_size)
    row = made_up_row(
        planner=config.objective.planner(),
        corruption=config.objective.corruption(vocab, phase.length),
        vocab=vocab,
        length=phase.length,
        packing=config.packing,
    )
    return abstract_batch(row, phase.batch_size, mesh)


def _phase(run: Run, number: int) -> dict[str, Any]:
    config, phase = run.config, run.config.phases[number]
    batch = planned_batch(config, phase, run.mesh)
    schedule = config.optimizer.schedule(config.steps)
    step = training_step(config, run.objective, run.optimizer, schedule, run.mesh)
    program = compiled_step(step, run.state, batch, run.mesh, topology=config.topology, quick=config.quick)
    tokens = phase.batch_size * phase.length
    flops = _flops(run, phase, program)
    memory = _memory(run, batch, program)
    fitting = program.fits and fits(program.needed, memory["available"])
    told: dict[str, Any] = {
        "steps": phase.steps,
        "batch_size": phase.batch_size,
        "length": phase.length,
        "micro_batches": config.micro_batches,
        "remat": config.remat,
        "tokens_per_step": tokens,
        "fits": fitting,  # null: the memory is not known
        "bytes_per_chip": memory,
        "flops_per_step": flops,
        "collectives_per_step": [one._asdict() for one in program.collectives] if program.fits else None,
        "compile_seconds": program.seconds,
        "from_cache": program.cached,
    }
    if fitting is False:
        told["short_by_bytes"] = program.needed - memory["available"]
        told["would_mend_it"] = _cures(run, number, program, memory["available"])
    elif run.chip:
        done = work(flops["formula"], flops["ratio"], config.remat) / run.mesh.size
        dtype, useful = config.model.dtype, flops["formula"] / run.mesh.size / run.chip.flops
        floor = roofline(program, run.chip, done, dtype=dtype, slices=run.mesh.shape["dcn"])
        told["estimate"] = estimate(floor, dtype=dtype, tokens=tokens, useful=useful)
    return told


def _flops(run: Run, phase: PhaseConfig, program: Program) -> dict[str, Any]:
    """Of a step on all chips; the compiler counts a loop, such as that over micro-batches, once."""
    tokens = phase.batch_size * phase.length
    formula = tokens * run.config.objective.flops_per_token(run.config.model, phase.length)
    if run.config.micro_batches > 1 or not program.flops:
        return {"formula": formula, "compiler": None, "ratio": None, "kernels": program.kernels}
    counted = program.flops * run.mesh.size
    return {"formula": formula, "compiler": counted, "ratio": counted / formula, "kernels": program.kernels}


def _memory(run: Run, batch: dict[str, jax.ShapeDtypeStruct], program: Program) -> dict[str, Any]:
    return {
        "parameters": bytes_on_device(run.state.params),
        "optimizer": bytes_on_device(run.state.opt_state),
        "batch": bytes_on_device(batch),
        "temporaries": program.temporaries,
        "program": program.code if program.fits else None,  # there is none
        "arguments": program.arguments,
        "needed": program.needed,
        "available": program.available or run.memory,
    }


def _cures(run: Run, number: int, program: Program, available: int) -> list[str]:
    found = cures(shape_of(run.config, number, run.mesh, run.state), program, available)
    if run.mesh.devices.flat[0].platform == "gpu" and program.needed <= MOST_OF_A_GPU * available / gpu_share():
        found.insert(0, f"XLA_PYTHON_CLIENT_MEM_FRACTION={MOST_OF_A_GPU} (JAX takes {gpu_share():.0%} of a GPU now)")
    return found
