"""The mesh of a run that names none: copies of the model while it fits, else cut as finely as memory asks for.

And whether a run on any mesh fits, about.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any, NamedTuple

from jax.sharding import Mesh

from bertjax.chips import check_libtpu
from bertjax.config import Finetune, PhaseConfig, Pretrain
from bertjax.contracts import Compute, ModelConfig, Objective, Remat
from bertjax.memory import Machine, amount, device_memory
from bertjax.train.log import console
from bertjax.train.mesh import MeshConfig, bytes_on_device, idle, make_mesh, row_ways
from bertjax.train.state import TrainState, planned_state
from bertjax.train.step import Update

USABLE = 0.9  # of a device's memory: the program and what is lost between arrays take some
# XLA for CPUs keeps more than XLA for TPUs, of which the formulas are: as measured 1.4 (tiny) to 1.95 (base) times as
# much. It keeps it in float32, whatever the model computes in, and takes no notice of `remat`.
ON_CPU = 1.8
REMATS: tuple[Remat, ...] = ("none", "dots", "blocks")  # from the least work to the most


class Chosen(NamedTuple):
    """The mesh of a run."""

    mesh: Mesh
    memory: int | None  # bytes of each device; None: nobody knows
    reason: str  # of `data` and `fsdp`, where they were left to us; else ""


def mesh_of(
    config: Pretrain | Finetune,
    model: ModelConfig,
    objective: Objective,
    optimizer: Update,
    devices: Sequence[Any] = (),
    machines: Sequence[Machine] = (),
    sequences: int = 1,
) -> Chosen:
    """The mesh of a run over these devices, or this program's.

    `machines` as in `device_memory`; `sequences` are those of a row of its data, one for each choice where it has some.
    """
    mesh = make_mesh(config.mesh, devices)
    check_libtpu(mesh.devices.flat[0].device_kind)
    memory = device_memory([*mesh.devices.flat], machines)
    if mesh.size == 1 or not _left_to_us(config.mesh):
        return Chosen(mesh, memory, "")
    state = planned_state(objective, optimizer, mesh)
    chosen, reason = choose(
        config.mesh,
        ways=mesh.shape["data"],
        fixed=round(_needed(state, 0, config.micro_batches)),
        activations=max(activations(config, model, phase, mesh, config.remat) for phase in phases(config))
        * sequences
        / config.micro_batches,
        memory=memory,
    )
    return Chosen(make_mesh(chosen, devices), memory, reason)


def tell(chosen: Chosen, there: int = 0) -> None:
    """Says what was chosen, and why, where not all was given; and which of the devices `there` have nothing to do."""
    if chosen.mesh.size < there:
        console.print(idle([*chosen.mesh.shape.values()], there))
    if chosen.reason:
        sizes = (f"{name} {size}" for name, size in chosen.mesh.shape.items() if size > 1 or name == "data")
        console.print(f"mesh {' x '.join(sizes)} (data and fsdp chosen): {chosen.reason}")


def _left_to_us(config: MeshConfig) -> bool:
    return config.data == -1 and config.fsdp == 0


def choose(
    config: MeshConfig, *, ways: int, fixed: int, activations: float, memory: int | None
) -> tuple[MeshConfig, str]:
    """How many of `ways` devices share parameters and optimizer, and why.

    `fixed` are the bytes of state and gradient where none do, `activations` about those of a device's rows: they are
    the same for all choices.
    """
    if memory is None:
        return replace(config, fsdp=1), "the memory of a device is not known"
    sizes = [n for n in range(1, ways + 1) if ways % n == 0]
    fitting = next((n for n in sizes if fixed / n + activations <= USABLE * memory), 0)
    needs = (
        f"parameters, gradient and optimizer take {amount(fixed)}, activations about {amount(activations)}, "
        f"a device has {amount(memory)}"
    )
    if fitting == 1:
        return replace(config, fsdp=1), needs
    if fitting:
        return replace(config, fsdp=fitting), f"{needs}: the first are cut over {fitting}"
    # Cutting more than helps costs time: what is too much then are the activations.
    enough = next((n for n in sizes if fixed / n <= memory / 4), sizes[-1])
    cut = f"the first are cut over {enough}, which may not be enough" if enough > 1 else "it may not fit"
    return replace(config, fsdp=enough), f"{needs}: {cut}"


def phases(config: Pretrain | Finetune) -> Sequence[PhaseConfig]:
    """The shapes of a run's batches; how many steps fine-tuning takes its config does not say: 0."""
    if isinstance(config, Pretrain):
        return config.phases
    return [PhaseConfig(0, config.length, config.batch_size)]


def activations(config: Pretrain | Finetune, model: ModelConfig, phase: PhaseConfig, mesh: Mesh, remat: Remat) -> float:
    """About the bytes that a device keeps of a whole batch of a phase for its backward pass: a sequence a row."""
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    changes: dict[str, Any] = {"dtype": "float32"} if on_cpu else {}
    if isinstance(config, Finetune) and config.frozen:  # nothing is kept: there is that of one layer at a time
        changes["layers"] = 1
    model = replace(model, **changes)  # type: ignore[type-var]
    compute = Compute("none" if on_cpu else remat, config.attention, mesh)
    if isinstance(config, Pretrain):
        each = config.objective.activation_bytes(model, phase.length, compute)
    else:  # its heads may read all tokens
        each = model.activation_bytes(phase.length, masked_fraction=0.0, read_fraction=1.0, compute=compute)
    tokens = phase.batch_size * phase.length / (row_ways(mesh) * mesh.shape["seq"])
    return each * tokens * (ON_CPU if on_cpu else 1.0)


def divisions(rows: Sequence[int], mesh_rows: int, least: int) -> list[int]:
    """The numbers of micro-batches, `least` or more, that phases of so many rows, cut over a mesh, can all have."""
    most = math.gcd(*rows) // mesh_rows
    return [parts for parts in range(least, most + 1) if most % parts == 0]


def shortage(
    config: Pretrain | Finetune,
    model: ModelConfig,
    chosen: Chosen,
    state: TrainState,
    steps: Sequence[int],
    done: int,
    sequences: int = 1,
) -> str:
    """What to say of a run that may need more memory than there is; "" where it fits, or nobody knows.

    `state` are the shapes of its state, `steps` how many each of its phases has, of which `done` in all are over;
    `sequences` as in `mesh_of`.
    """
    if chosen.memory is None:
        return ""
    ends = list(accumulate(steps))
    coming = [one for one in zip(phases(config), steps, ends, strict=True) if one[-1] > done]
    try:
        kept = {
            remat: [sequences * activations(config, model, phase, chosen.mesh, remat) for phase, _, _ in coming]
            for remat in REMATS
        }
    except NotImplementedError:  # a model of another package that does not say what it keeps
        return ""
    needs = [_needed(state, each, config.micro_batches) for each in kept[config.remat]]
    room = USABLE * chosen.memory
    if max(needs, default=0) <= room:
        return ""
    phase, count, last = coming[needs.index(max(needs))]
    which = f"steps {last - count + 1:,} to {last:,}, of {phase.batch_size:,} x {phase.length:,}, may not fit"
    parts = divisions([one.batch_size for one in phases(config)], row_ways(chosen.mesh), config.micro_batches)
    cure = _cure(config, parts, state, {remat: max(each) for remat, each in kept.items()}, room)
    plan = "; `bertjax plan CONFIG.py --topology local` tells more exactly" if isinstance(config, Pretrain) else ""
    return f"{which}: they take about {amount(max(needs))}, a device has {amount(chosen.memory)}; {cure}{plan}"


def takes_less(config: Pretrain | Finetune, mesh: Mesh) -> str:
    """What to do about a run that has not enough memory, whatever the formulas say: the next smaller thing of each."""
    parts = divisions([one.batch_size for one in phases(config)], row_ways(mesh), config.micro_batches + 1)
    remats = REMATS[REMATS.index(config.remat) + 1 :]
    options = [f"--micro-batches {parts[0]}"] * bool(parts) + [f"--remat {remat}" for remat in remats[:1]]
    return f"give {' or '.join([*options, 'smaller batches'])}, or more devices with --mesh.fsdp"


def _needed(state: TrainState, kept: float, parts: int) -> float:
    """Bytes of a device: state, gradient, their sum over micro-batches where there are some, activations of one."""
    return bytes_on_device(state) + (1 + (parts > 1)) * bytes_on_device(state.params) + kept / parts


def _cure(
    config: Pretrain | Finetune, parts: Sequence[int], state: TrainState, kept: dict[Remat, float], room: float
) -> str:
    """The fewest micro-batches that would do, with as little computed again as can be."""
    for remat in REMATS[REMATS.index(config.remat) :]:
        fewest = next((n for n in parts if _needed(state, kept[remat], n) <= room), 0)
        if fewest:
            options = [f"--remat {remat}"] if remat != config.remat else []
            options += [f"--micro-batches {fewest}"] if fewest > config.micro_batches else []
            return f"give {' '.join(options)}"
    return "no --micro-batches or --remat would do: give smaller batches, or more devices with --mesh.fsdp"
