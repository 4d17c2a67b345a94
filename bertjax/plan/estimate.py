"""What follows from a compiled step and a chip: how long a step takes at least, and what would mend too much memory."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bertjax.chips import Chip
from bertjax.contracts import Remat
from bertjax.plan.hlo import SLICES
from bertjax.plan.program import Program


class Roofline(NamedTuple):
    """Seconds that a step takes for each of what it needs, were each used to its peak: an estimate."""

    compute: float
    memory: float
    links: float
    network: float

    @property
    def binds(self) -> str:
        """What takes longest."""
        return max(self._asdict().items(), key=lambda item: item[1])[0]

    @property
    def seconds(self) -> float:
        """Of a step in which all of it overlaps."""
        return max(self)


def roofline(program: Program, chip: Chip, flops: float, micro_batches: int) -> Roofline:
    """`flops` are those of the formula for one chip; collectives across slices go over the network."""
    across = sum(c.sent for c in program.collectives if SLICES in c.axes)
    inside = sum(c.sent for c in program.collectives if SLICES not in c.axes)
    # The compiler counts what a loop over micro-batches reads once; the state is read and written outside of it.
    once = min(program.bytes_accessed, 2 * program.arguments)
    moved = once + (program.bytes_accessed - once) * micro_batches
    network = across / chip.network if across and chip.network else 0.0
    return Roofline(flops / chip.flops, moved / chip.bandwidth, inside / chip.links, network)


class Shape(NamedTuple):
    """What of a run decides how much memory its step takes."""

    batch_size: int
    micro_batches: int
    remat: Remat
    rows: int  # devices over which the rows of a batch are cut
    fsdp: int
    state: int  # bytes of state on a device
    gradient: int  # bytes of the gradient on a device
    activations: Mapping[Remat, float]  # about the bytes on a device for a whole batch, by what is kept of them


MORE_WORK: dict[Remat, str] = {
    "none": "the gradient stays the same",
    "dots": "somewhat more work",
    "blocks": "a third more work",
}


def cures(shape: Shape, program: Program, available: int) -> list[str]:
    """Options each of which would make a step fit, as far as a formula can tell: to be planned to be sure."""
    found = []
    for remat, why in MORE_WORK.items():
        parts = _parts(shape, remat, program, available)
        if parts and list(MORE_WORK).index(remat) >= list(MORE_WORK).index(shape.remat):
            options = [] if remat == shape.remat else [f"--remat {remat}"]
            options += [f"--micro-batches {parts}"] if parts > shape.micro_batches else []
            found.append(f"{' '.join(options)} ({why})")
            if remat == shape.remat:
                found.append(f"--batch-size {shape.batch_size * shape.micro_batches // parts}")
    most = shape.rows // shape.fsdp  # devices that could cut the state besides those that do
    ways = next((n for n in _powers(most) if (shape.state + shape.gradient) / n <= available / 2), 0)
    if shape.state > available / 4 and ways > 1:
        found.append(f"--mesh.fsdp {shape.fsdp * ways} (parameters and optimizer cut {ways} times as finely)")
    return found or ["more chips, with --mesh.fsdp, or chips with more memory"]


def _parts(shape: Shape, remat: Remat, program: Program, available: int) -> int:
    """Micro-batches, those of now or more, that the batch would have to be cut into; 0: no number of them is enough."""
    room = available - program.arguments - program.code - shape.gradient
    activations = shape.activations[remat]
    if remat == shape.remat:  # the compiler knows better, unless it has already done what it could to save memory
        activations = max(activations, (program.temporaries - shape.gradient) * shape.micro_batches)
    most = shape.batch_size // shape.rows
    first = shape.micro_batches + (remat == shape.remat)
    parts = (n for n in range(first, most + 1) if most % n == 0)
    # Several micro-batches have a sum of their gradients too.
    return next((n for n in parts if activations / n + (n > 1) * shape.gradient <= room), 0)


def _powers(most: int) -> Sequence[int]:
    return [2**n for n in range(1, most.bit_length()) if most % 2**n == 0]
