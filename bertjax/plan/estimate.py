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
    memory: float
    links: float
    network: float | None  # None: nobody knows

    @property
    def known(self) -> dict[str, float]:
        """Those that can be told."""
        return {name: seconds for name, seconds in self._asdict().items() if seconds is not None}

    @property
    def unknown(self) -> list[str]:
        """Those that cannot."""
        return [name for name in self._fields if name not in self.known]

    @property
    def binds(self) -> str:
        """What takes longest, of what is known."""
        return max(self.known, key=self.known.__getitem__)

    @property
    def seconds(self) -> float:
        """Of a step in which all of it overlaps."""
        return self.known[self.binds]


def work(flops: float, ratio: float | None, remat: Remat) -> float:
    """FLOP of a step whose formula says `flops`, with what is computed again: by the compiler's count where it has one.

    `ratio` is that count over the formula's, which leaves some out: rounds of loops, and what kernels do.
    """
    return flops * max(ratio or 1.0, AGAIN if remat == "blocks" else 1.0)


def roofline(program: Program, chip: Chip, flops: float, *, dtype: str, slices: int) -> Roofline:
    """`flops` are those that one chip does, in `dtype`; what crosses slices goes over the network."""
    # The devices of a slice that are in one collective pass it on among themselves and send it over the network once.
    across = sum(c.sent / max(1, c.devices // slices) for c in program.collectives if SLICES in c.axes)
    within = [c for c in program.collectives if c.axes != (SLICES,)]
    inside = sum(c.sent * (chip.ports / c.links if c.links else 1.0) for c in within)
    return Roofline(
        compute=flops / (chip.float32 if dtype == "float32" else chip.flops),
        memory=program.traffic / chip.bandwidth,
        links=inside / chip.links,
        network=across / chip.network if across and chip.network else None if across else 0.0,
    )


def estimate(floor: Roofline, *, dtype: str, tokens: int, useful: float) -> dict[str, Any]:
    """For a report: `tokens` of a step, and the seconds in which a chip would do its work by the formula."""
    left = " and ".join(floor.unknown)
    return {
        "is": "an estimate: each at its peak, all at once; memory is what operations read and write there, as if no "
        f"GPU had a cache{f'; {left}, whose speed is not known, is not counted' if left else ''}",
        "dtype": dtype,
        "milliseconds": {name: 1e3 * seconds for name, seconds in floor.known.items()},
        "not_counted": floor.unknown,
        "binds": floor.binds,
        "step_milliseconds": 1e3 * floor.seconds,
        "tokens_per_second": tokens / floor.seconds,
        "mfu": useful / floor.seconds,
    }
