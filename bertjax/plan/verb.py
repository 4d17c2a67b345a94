"""`bertjax plan`: the training step of a recipe, compiled for chips that are not here, and what that tells."""

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import jax
from jax.sharding import Mesh

from bertjax.automesh import mesh_of
from bertjax.chips import Chip, gpu_share
from bertjax.config import PhaseConfig, Plan, Pretrain
from bertjax.contracts import Compute, Objective, Remat
from bertjax.data.shapes import made_up_row, made_up_vocab
from bertjax.jsonio import write_json
from bertjax.plan import tables
from bertjax.plan.estimate import Shape, cures, roofline
from bertjax.plan.program import Program, compiled
from bertjax.plan.topology import LOCAL, devices_of
from bertjax.run import resolve
from bertjax.session import training_step
from bertjax.train.log import answers
from bertjax.train.mesh import abstract_batch, bytes_on_device, check_batch, row_ways
from bertjax.train.state import TrainState, planned_state
from bertjax.train.step import Update

MOST_OF_A_GPU = 0.95  # the rest of its memory the driver and the libraries need


def plan(config: Plan) -> None:
    """Compiles every phase of the run, prints what it takes and writes it as JSON."""
    if config.topology != LOCAL:  # the compiler describes the chips: those of this machine are left to others
        jax.config.update("jax_platforms", "cpu")
    if config.data:
        config = replace(config, model=resolve(config)[1].model)
    chip, devices = devices_of(config.topology, config.mesh.dcn)
    objective = config.objective.build(config.model)
    optimizer = config.optimizer.build(config.steps)
    mesh = mesh_of(config, config.model, objective, optimizer, devices)
    for phase in config.phases:
        check_batch(phase.batch_size, config.micro_batches, mesh)
    report = {
        "topology": config.topology,
        "chip": _chip(chip, devices[0]),
        "devices": mesh.size,
        "idle_devices": len(devices) - mesh.size,
        "mesh": dict(mesh.shape),
        "effort": "quick" if config.quick else "full",
        "phases": [_phase(config, phase, mesh, chip, objective, optimizer) for phase in config.phases],
    }
    out = Path(config.out or f"plan-{config.topology.replace(':', '-')}.json")
    write_json(out, report)
    tables.show(report)
    answers.print(f"all of it: {out}")


def _chip(chip: Chip | None, device: Any) -> dict[str, Any]:  # noqa: ANN401 (a jax.Device, or one of a topology)
    if not chip:
        return {"name": device.device_kind}
    return chip._asdict() | ({"memory_share": gpu_share()} if device.platform == "gpu" else {})


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


def _phase(
    config: Plan, phase: PhaseConfig, mesh: Mesh, chip: Chip | None, objective: Objective, optimizer: Update
) -> dict[str, Any]:
    state, batch = planned_state(objective, optimizer, mesh), planned_batch(config, phase, mesh)
    schedule = config.optimizer.schedule(config.steps)
    lowered = training_step(config, objective, optimizer, schedule, mesh).lower(state, batch)
    about = f"{phase.batch_size:,} x {phase.length:,}"
    arguments = bytes_on_device(state) + bytes_on_device(batch)
    program = compiled(lowered, mesh, arguments, topology=config.topology, quick=config.quick, about=about)
    tokens = phase.batch_size * phase.length
    flops = tokens * config.objective.flops_per_token(config.model, phase.length)
    available = program.available or round(chip.memory if chip else 0)
    fits = program.fits and not 0 < available < program.needed
    told: dict[str, Any] = {
        "steps": phase.steps,
        "batch_size": phase.batch_size,
        "length": phase.length,
        "micro_batches": config.micro_batches,
        "remat": config.remat,
        "tokens_per_step": tokens,
        "fits": fits,
        "bytes_per_chip": {
            "parameters": bytes_on_device(state.params),
            "optimizer": bytes_on_device(state.opt_state),
            "batch": bytes_on_device(batch),
            "temporaries": program.temporaries,
            "program": program.code,
            "arguments": program.arguments,
            "needed": program.needed,
            "available": available,
        },
        "flops_per_step": {"formula": flops, "compiler": None, "ratio": None},
        "collectives_per_step": [one._asdict() for one in program.collectives],
        "compile_seconds": program.seconds,
        "from_cache": program.cached,
    }
    if config.micro_batches == 1 and program.flops:  # the compiler counts a loop once
        counted = program.flops * mesh.size
        told["flops_per_step"] |= {"compiler": counted, "ratio": counted / flops}
    if not fits:
        told["short_by_bytes"] = program.needed - available
        told["would_mend_it"] = _cures(config, phase, mesh, state, program, available)
    elif chip:
        told["estimate"] = _estimate(config, tokens, flops, mesh, program, chip)
    return told


def _estimate(config: Plan, tokens: int, flops: float, mesh: Mesh, program: Program, chip: Chip) -> dict[str, Any]:
    floor = roofline(program, chip, flops / mesh.size, config.micro_batches)
    each = {name: 1e3 * seconds for name, seconds in floor._asdict().items()}
    if not program.bytes_accessed:  # by compilers for GPUs: what binds is not known then
        del each["memory"]
        return {"is": "an estimate: each at its peak; memory is not counted", "milliseconds": each}
    return {
        "is": "an estimate: each at its peak, all at once; memory counts every operand, also those kept on the chip",
        "milliseconds": each,
        "binds": floor.binds,
        "step_milliseconds": 1e3 * floor.seconds,
        "tokens_per_second": tokens / floor.seconds,
        "mfu": floor.compute / floor.seconds,
    }


def _cures(
    config: Plan, phase: PhaseConfig, mesh: Mesh, state: TrainState, program: Program, available: int
) -> list[str]:
    tokens = phase.batch_size * phase.length / (row_ways(mesh) * mesh.shape["seq"] * mesh.shape["tensor"])
    shape = Shape(
        batch_size=phase.batch_size,
        micro_batches=config.micro_batches,
        remat=config.remat,
        rows=row_ways(mesh),
        fsdp=mesh.shape["fsdp"],
        state=bytes_on_device(state),
        gradient=bytes_on_device(state.params),
        activations={
            remat: tokens
            * config.objective.activation_bytes(config.model, phase.length, Compute(remat, config.attention, mesh))
            for remat in get_args(Remat)
        },
    )
    found = cures(shape, program, available)
    if mesh.devices.flat[0].platform == "gpu" and program.needed <= MOST_OF_A_GPU * available / gpu_share():
        found.insert(0, f"XLA_PYTHON_CLIENT_MEM_FRACTION={MOST_OF_A_GPU} (JAX takes {gpu_share():.0%} of a GPU now)")
    return found
