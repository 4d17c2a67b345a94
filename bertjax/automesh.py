"""The mesh of a run that names none: copies of the model while it fits, else cut as finely as memory asks for."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
from jax.sharding import Mesh

from bertjax.chips import chip_of, gpu_share
from bertjax.config import Finetune, PhaseConfig, Pretrain
from bertjax.contracts import Compute, ModelConfig, Objective, Remat
from bertjax.train.log import console
from bertjax.train.mesh import MeshConfig, bytes_on_device, make_mesh, row_ways
from bertjax.train.state import planned_state
from bertjax.train.step import Update

GIB = 2**30
USABLE = 0.9  # of a device's memory: the program and what is lost between arrays take some


def mesh_of(
    config: Pretrain | Finetune,
    model: ModelConfig,
    objective: Objective,
    optimizer: Update,
    devices: Sequence[Any] = (),
) -> Mesh:
    """The mesh of a run over these devices, or this program's; a choice that was left to us is told with its reason."""
    mesh = make_mesh(config.mesh, devices)
    if mesh.size == 1 or not _left_to_us(config.mesh):
        return mesh
    state = planned_state(objective, optimizer, mesh)
    chosen, reason = choose(
        config.mesh,
        ways=mesh.shape["data"],
        fixed=bytes_on_device(state) + bytes_on_device(state.params),  # the gradient is as large as the parameters
        activations=_activations(config, model, mesh),
        memory=_memory(mesh.devices.flat[0]),
    )
    mesh = make_mesh(chosen, devices)
    sizes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items() if size > 1)
    console.print(f"mesh {sizes}, as none was given: {reason}")
    return mesh


def _left_to_us(config: MeshConfig) -> bool:
    return config.data == -1 and config.fsdp == 0


def choose(config: MeshConfig, *, ways: int, fixed: int, activations: float, memory: float) -> tuple[MeshConfig, str]:
    """How many of `ways` devices share parameters and optimizer, and why.

    `fixed` are the bytes of state and gradient where none do, `activations` about those of a device's rows: they are
    the same for all choices.
    """
    if not memory:
        return replace(config, fsdp=1), "the memory of a device is not known"
    sizes = [n for n in range(1, ways + 1) if ways % n == 0]
    fitting = next((n for n in sizes if fixed / n + activations <= USABLE * memory), 0)
    needs = (
        f"parameters, gradient and optimizer take {fixed / GIB:,.1f} GiB, activations about {activations / GIB:,.1f}, "
        f"a device has {memory / GIB:,.0f}"
    )
    if fitting == 1:
        return replace(config, fsdp=1), needs
    if fitting:
        return replace(config, fsdp=fitting), f"{needs}: the first are cut over {fitting}"
    # Cutting more than helps costs time: what is too much then are the activations.
    enough = next((n for n in sizes if fixed / n <= memory / 4), sizes[-1])
    return replace(config, fsdp=enough), f"{needs}: may not fit; see --micro-batches, --remat, and `bertjax plan`"


def activations(config: Pretrain, model: ModelConfig, phase: PhaseConfig, mesh: Mesh, remat: Remat) -> float:
    """About the bytes that a device keeps of a whole batch of a phase for its backward pass."""
    each = config.objective.activation_bytes(model, phase.length, Compute(remat, config.attention, mesh))
    return each * _tokens(phase.batch_size, phase.length, mesh)


def _tokens(rows: int, length: int, mesh: Mesh) -> float:
    return rows * length / (row_ways(mesh) * mesh.shape["seq"])


def _activations(config: Pretrain | Finetune, model: ModelConfig, mesh: Mesh) -> float:
    """Bytes of a device, of the phase with most."""
    if isinstance(config, Pretrain):
        kept = [activations(config, model, phase, mesh, config.remat) for phase in config.phases]
    else:  # its heads may read all tokens
        compute = Compute(config.remat, config.attention, mesh)
        each = model.activation_bytes(config.length, masked_fraction=0.0, read_fraction=1.0, compute=compute)
        kept = [each * _tokens(config.batch_size, config.length, mesh)]
    return max(kept) / config.micro_batches


def _memory(device: Any) -> float:  # noqa: ANN401 (a jax.Device, or one of a topology)
    """Bytes of a device; 0 where nobody knows."""
    chip = chip_of(device.device_kind)
    if chip:
        return chip.memory * (gpu_share() if device.platform == "gpu" else 1.0)
    stats = jax.local_devices()[0].memory_stats() if device in jax.devices() else None
    return float((stats or {}).get("bytes_limit", 0))
