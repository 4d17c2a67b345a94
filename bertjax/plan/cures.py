"""What would mend a step that takes more memory than there is."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jax.sharding import Mesh

from bertjax.automesh import REMATS, activations, divisions
from bertjax.config import Pretrain
from bertjax.contracts import Remat
from bertjax.plan.program import Program
from bertjax.train.mesh import bytes_on_device, row_ways
from bertjax.train.state import TrainState


class Shape(NamedTuple):
    """What of a run decides how much memory the step of one of its phases takes."""

    batches: Sequence[tuple[float, int, int]]  # of each phase: share of the steps, length, rows
    phase: int  # the one that is short of memory
    micro_batches: int
    remat: Remat
    rows: int  # devices over which the rows of a batch are cut
    data: int
    fsdp: int
    state: int  # bytes of state on a device
    gradient: int  # bytes of the gradient on a device
    activations: Mapping[Remat, float]  # about the bytes on a device for a whole batch, by what is kept of them


MORE_WORK: dict[Remat, str] = {
    "none": "the gradient stays the same",
    "dots": "somewhat more work",
    "blocks": "a third more work",
}


def shape_of(config: Pretrain, phase: int, mesh: Mesh, state: TrainState) -> Shape:
    """Of the phase with this number in the run."""
    at = config.phases[phase]
    return Shape(
        batches=[(0.0, config.length, config.batch_size), *config.later_phases],
        phase=phase,
        micro_batches=config.micro_batches,
        remat=config.remat,
        rows=row_ways(mesh),
        data=mesh.shape["data"],
        fsdp=mesh.shape["fsdp"],
        state=bytes_on_device(state),
        gradient=bytes_on_device(state.params),
        activations={remat: activations(config, config.model, at, mesh, remat) for remat in REMATS},
    )


def cures(shape: Shape, program: Program, available: int) -> list[str]:
    """Options each of which would make a step fit, as far as a formula can tell: to be planned to be sure."""
    found, fewest = [], math.inf
    helpful = [remat for remat in REMATS if shape.activations[remat] < shape.activations[shape.remat]]
    for remat in [shape.remat, *helpful]:
        parts = _parts(shape, remat, program, available)
        if not parts or parts >= fewest:  # more work for nothing
            continue
        fewest = parts
        options = [] if remat == shape.remat else [f"--remat {remat}"]
        options += [f"--micro-batches {parts}"] if parts > shape.micro_batches else []
        found.append(f"{' '.join(options)} ({MORE_WORK[remat]})")
        if remat == shape.remat:
            found.append(_smaller(shape, parts))
    # The devices that could cut the state are those that have it whole; between slices is only the network.
    ways = next((n for n in _powers(shape.data) if (shape.state + shape.gradient) / n <= available / 2), 0)
    if shape.state > available / 4 and ways > 1:
        mesh = f"--mesh.data {shape.data // ways} --mesh.fsdp {shape.fsdp * ways}"
        found.append(f"{mesh} (parameters and optimizer cut {ways} times as finely)")
    return found or ["more chips, with --mesh.fsdp, or chips with more memory"]


def _parts(shape: Shape, remat: Remat, program: Program, available: int) -> int:
    """Micro-batches, those of now or more, that the batch would have to be cut into; 0: no number of them is enough."""
    room = available - program.arguments - program.code - shape.gradient
    activations = shape.activations[remat]
    if remat == shape.remat:  # the compiler knows better, unless it has already done what it could to save memory
        activations = max(activations, (program.temporaries - shape.gradient) * shape.micro_batches)
    least = shape.micro_batches + (remat == shape.remat)
    parts = divisions([rows for _, _, rows in shape.batches], shape.rows, least)  # all phases have as many
    # Several micro-batches have a sum of their gradients too.
    return next((n for n in parts if activations / n + (n > 1) * shape.gradient <= room), 0)


def _smaller(shape: Shape, parts: int) -> str:
    """A batch with as many rows at once as one in so many parts, in the phase that is short of memory."""
    rows = shape.batches[shape.phase][2] * shape.micro_batches // parts
    if not shape.phase:
        return f"--batch-size {rows}"
    changed = [(*about, rows if n == shape.phase else old) for n, (*about, old) in enumerate(shape.batches)]
    return "--later-phases " + " ".join(f"{share} {length} {size}" for share, length, size in changed[1:])


def _powers(most: int) -> Sequence[int]:
    return [2**n for n in range(1, most.bit_length()) if most % 2**n == 0]
