"""How long a step takes at least, from its compiled program and what a chip can do: an estimate."""

from typing import Any, NamedTuple

from bertjax.chips import Chip
from bertjax.contracts import Remat
from bertjax.plan.hlo import SLICES
from bertjax.plan.program import Program

AGAIN = 4 / 3  # of the formula's work is done where layers are computed twice: forward, and backward of twice as much


class Roofline(NamedTuple):
    """Seconds that a step takes for each of what it needs, were each used to its peak: an estimate."""

    compute: float
    memory: float | None  # None: nobody knows
    links: float
    network: float | None

    @property
    def known(self) -> dict[str, float]:
        """Those that can be told."""
        return {name: seconds for name, seconds in self._asdict().items() if seconds is not None}

    @property
    def unknown(self) -> list[str]:
        """Those that cannot; with any it is not known either what binds."""
        return [name for name in self._fields if name not in self.known]

    @property
    def binds(self) -> str:
        """What takes longest."""
        return max(self.known, key=self.known.__getitem__)

    @property
    def seconds(self) -> float:
        """Of a step in which all of it overlaps."""
        return self.known[self.binds]


def work(flops: float, ratio: float | None, remat: Remat) -> float:
    """FLOP of a step whose formula says `flops`, with what is computed again: by the compiler's count where it has one.

    `ratio` is that count over the formula's.
    """
    return flops * (max(1.0, ratio) if ratio else AGAIN if remat == "blocks" else 1.0)


def roofline(program: Program, chip: Chip, flops: float, *, micro_batches: int, slices: int) -> Roofline:
    """`flops` are those that one chip does; what crosses slices goes over the network."""
    # The devices of a slice that are in one collective pass it on among themselves and send it over the network once.
    across = sum(c.sent / max(1, c.devices // slices) for c in program.collectives if SLICES in c.axes)
    inside = sum(c.sent for c in program.collectives if c.axes != (SLICES,))
    # The compiler counts what a loop over micro-batches reads once; the state is read and written outside of it.
    once = min(program.bytes_accessed, 2 * program.arguments)
    moved = once + (program.bytes_accessed - once) * micro_batches
    return Roofline(
        compute=flops / chip.flops,
        memory=moved / chip.bandwidth if moved else None,  # compilers for GPUs do not tell
        links=inside / chip.links,
        network=across / chip.network if across and chip.network else None if across else 0.0,
    )


def estimate(floor: Roofline, *, tokens: int, useful: float) -> dict[str, Any]:
    """For a report: `tokens` of a step, and the seconds in which a chip would do its work by the formula."""
    each = {name: 1e3 * seconds for name, seconds in floor.known.items()}
    if floor.unknown:
        said = " and ".join(floor.unknown)
        return {
            "is": f"an estimate: each at its peak; {said} not counted",
            "milliseconds": each,
            "not_counted": floor.unknown,
        }
    return {
        "is": "an estimate: each at its peak, all at once; memory counts every operand, also those kept on the chip",
        "milliseconds": each,
        "binds": floor.binds,
        "step_milliseconds": 1e3 * floor.seconds,
        "tokens_per_second": tokens / floor.seconds,
        "mfu": useful / floor.seconds,
    }
