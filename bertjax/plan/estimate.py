"""What follows from a compiled step and a chip: how long a step takes at least, and what would mend too much memory."""

from collections.abc import Sequence
from typing import NamedTuple

from bertjax.chips import Chip
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
    remat: str
    rows: int  # devices over which the rows of a batch are cut
    fsdp: int
    state: int  # bytes of state on a device
    gradient: int  # bytes of the gradient on a device


def cures(shape: Shape, program: Program, available: int) -> list[str]:
    """Options each of which would make a step fit, by proportion: to be planned before they are believed."""
    found = []
    parts = _parts(shape, program, available)
    if parts:
        found.append(f"--micro-batches {parts} (the gradient stays the same)")
        smaller = shape.batch_size * shape.micro_batches // parts
        found.append(f"--batch-size {smaller}")
        if shape.remat != "blocks":
            found.append("--remat blocks (a third more work), alone or with fewer micro-batches")
    most = shape.rows // shape.fsdp  # devices that could cut the state besides those that do
    ways = next((n for n in _powers(most) if (shape.state + shape.gradient) / n <= available / 2), 0)
    if shape.state > available / 4 and ways > 1:
        found.append(f"--mesh.fsdp {shape.fsdp * ways} (parameters and optimizer cut {ways} times as finely)")
    return found or ["more chips, with --mesh.fsdp, or chips with more memory"]


def _parts(shape: Shape, program: Program, available: int) -> int:
    """Micro-batches that the batch would have to be cut into; 0: no number of them is enough."""
    room = available - program.arguments - program.code - 2 * shape.gradient  # that of a micro-batch, and their sum
    activations = max(0, program.temporaries - shape.gradient)
    most = shape.batch_size // shape.rows
    parts = (n for n in range(shape.micro_batches + 1, most + 1) if most % n == 0)
    return next((n for n in parts if activations * shape.micro_batches / n <= room), 0)


def _powers(most: int) -> Sequence[int]:
    return [2**n for n in range(1, most.bit_length()) if most % 2**n == 0]
