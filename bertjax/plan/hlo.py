"""What a compiled program sends between devices, read from its HLO text."""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# Of the whole array's bytes, what each of n devices sends around a ring.
SENT = {
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-gather": lambda n: (n - 1) / n,
    "reduce-scatter": lambda n: (n - 1) / n,
    "all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1.0,
}
SLICES = "dcn"  # the axis of a mesh that crosses from slice to slice
WIDTHS = {"pred": 8, "bf16": 16, "c64": 64, "c128": 128}  # bits; else the number in the name, as in f32


class Collective(NamedTuple):
    """Collectives of one kind over the same axes, in one step."""

    kind: str
    axes: tuple[str, ...]  # of the mesh, that their groups cross
    devices: int  # in a group
    times: int  # in a step
    elements: int  # in all their arrays
    bytes: int  # of the whole arrays that are reduced, gathered or moved
    sent: int  # by each device
    links: float = 0.0  # of a chip, that its groups can use at once; 0: all of them, or that is not known


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    type: str
    opcode: str
    rest: str  # of the line, from its first operand
    root: bool  # what its computation returns

    @property
    def operands(self) -> list[str]:
        """The names of what it takes."""
        return re.findall(r"%([\w.\-]+)", self.rest.partition(")")[0])

    @property
    def calls(self) -> dict[str, list[str]]:
        """The computations it calls, by what they are to it."""
        return {role: re.findall(r"[\w.\-]+", names) for role, names in _CALLS.findall(self.rest)}


class Array(NamedTuple):
    """What a type tells of an array."""

    elements: int
    bytes: int
    main: bool  # in the memory that all arguments are in, and not in one on the chip, or that of the host


Computations = Mapping[str, Sequence[Instruction]]


_HEADER = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
_LINE = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (.*)")
_OPCODE = re.compile(r"(?:^|\s)([a-z][\w\-]*)\(")
_CALLS = re.compile(
    r"(calls|to_apply|body|condition|branch_computations|called_computations)="
    r"(\{[^}]*\}|%?[\w.\-]+)"
)
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")


Links = Callable[[Sequence[int]], float]  # how many of a chip's a group of devices can use at once


def collectives(text: str, axes: Mapping[str, int], links: Links = lambda _: 0.0) -> list[Collective]:
    """All of a step, those in loops as often as these run; `axes` are the sizes of the mesh, in its order."""
    entry, computations = computations_of(text)
    # XLA for TPU hides a gather behind computation by putting pieces of it into several fusions, all of one channel.
    # Other ones may share a channel too, each for itself: parts of one reduction of a large gradient, outside of
    # fusions, and all it makes of several reduce-scatters, each of which is a fusion.
    channels: dict[tuple[object, ...], Collective] = {}
    for instruction, times, place, fused in _walk(computations, entry, 1):
        one = _read(instruction, times, place, axes, links)
        if one:
            in_pieces = fused and one.kind != "reduce-scatter"
            channel = re.search(r"channel_id=(\d+)", instruction.rest) if in_pieces else None
            name = (one.kind, one.axes, one.elements // times, channel[0] if channel else len(channels))
            channels[name] = max(channels.get(name, one), one, key=lambda c: c.sent)
    return _summed(channels.values())


def _read(instruction: Instruction, times: int, place: str, axes: Mapping[str, int], links: Links) -> Collective | None:
    if instruction.opcode == "send":
        return _across_slices(instruction, times, axes)
    kind = instruction.opcode.removesuffix("-start")
    group = _group(instruction.rest, axes)
    crossed = _axes(group, axes)
    if not crossed:
        return None
    n = 2 if kind == "collective-permute" else len(group)
    elements, size = _whole(instruction, kind, n)
    if place.startswith("all-reduce-scatter"):  # how XLA for TPU spells it
        kind = "reduce-scatter"
    sent = round(size * times * SENT[kind](n))
    used = links(group)
    used = 1.0 if used and kind == "collective-permute" else used  # each device sends to one
    return Collective(kind, crossed, n, times, elements * times, size * times, sent, used)


def _across_slices(instruction: Instruction, times: int, axes: Mapping[str, int]) -> Collective:
    """What goes from slice to slice is handed to the host: a send that says what it is a part of."""
    found = re.search(r'megascale_transfer_type="(\w+)"', instruction.rest)
    kind = found[1].lower().replace("_", "-") if found else ""
    kind = kind if kind in KINDS else "collective-permute"
    elements, size = _size(instruction.type.split("u32[]")[0])
    n = axes.get(SLICES, 1)
    return Collective(kind, (SLICES,), n, times, elements * times, size * times, round(size * times * SENT[kind](n)))


def _summed(each: Iterable[Collective]) -> list[Collective]:
    """Those of the same kind, axes, number of devices and links as one, what sends most first."""
    totals: dict[tuple[str, tuple[str, ...], int, float], np.ndarray] = {}
    for one in each:
        key = (*one[:3], one.links)
        totals[key] = totals.get(key, np.zeros(4, np.int64)) + np.array(one[3:7])
    found = []
    for (kind, axes, n, links), sums in totals.items():
        times, elements, size, sent = sums.tolist()
        found.append(Collective(kind, axes, n, times, elements, size, sent, links))
    return sorted(found, key=lambda c: -c.sent)


def computations_of(text: str) -> tuple[str, Computations]:
    """The name of the one that is the program, and all of them."""
    entry, current = "", ""
    found: dict[str, list[Instruction]] = {}
    for line in text.splitlines():
        if not line.startswith(" ") and (header := _HEADER.match(line)):
            current = header[2]
            found[current] = []
            entry = current if header[1] else entry
        elif current and (body := _LINE.match(line)) and (opcode := _OPCODE.search(body[3])):
            before, after = body[3][: opcode.start()], body[3][opcode.end() :]
            found[current].append(Instruction(body[2], before, opcode[1], after, bool(body[1])))
    return entry, found


def _walk(
    computations: Computations, name: str, times: int, fused: bool = False
) -> Iterator[tuple[Instruction, int, str, bool]]:
    """The collectives of a computation and of all that it calls: how often each runs, where, and if in a fusion."""
    for instruction in computations.get(name, ()):
        across = instruction.opcode == "send" and "megascale_transfer_type" in instruction.rest
        if across or instruction.opcode.removesuffix("-start") in KINDS:
            yield instruction, times, name, fused
            continue
        rounds = times * (trips(instruction, computations) if instruction.opcode == "while" else 1)
        for names in instruction.calls.values():
            for other in names:
                yield from _walk(computations, other, rounds, fused or instruction.opcode == "fusion")


def arrays_of(types: str) -> list[Array]:
    """All that a type names, those of tuples in their order."""
    found = []
    for dtype, shape, layout in _ARRAY.findall(types):
        count = math.prod(int(d) for d in shape.split(",") if d)
        bits = WIDTHS.get(dtype) or int(next(iter(re.findall(r"\d+", dtype)), 32))
        found.append(Array(count, count * bits // 8, re.search(r"S\([1-9]", layout) is None))
    return found


def trips(loop: Instruction, computations: Computations) -> int:
    """How often a loop runs: as XLA says, or the one constant its condition compares with; once if neither tells."""
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest):
        return int(known[1])
    condition = computations.get(loop.calls["condition"][0], ())
    constants = {int(found[1]) for i in condition if i.opcode == "constant" and (found := re.match(r"(\d+)\)", i.rest))}
    return constants.pop() if len(constants) == 1 else 1


def _whole(instruction: Instruction, kind: str, n: int) -> tuple[int, int]:
    """Elements and bytes of the whole arrays, from the type of the result."""
    elements, size = _size(instruction.type)
    scale = 1.0
    if instruction.opcode in ("all-gather-start", "reduce-scatter-start"):  # its type has the operand beside the result
        scale = n / (n + 1)
    elif kind == "reduce-scatter":  # the result is one device's part
        scale = n
    elif instruction.opcode == "collective-permute-start":
        scale = 0.5
    return round(elements * scale), round(size * scale)


def _size(arrays: str) -> tuple[int, int]:
    each = arrays_of(arrays)
    return sum(one.elements for one in each), sum(one.bytes for one in each)


def _group(rest: str, axes: Mapping[str, int]) -> list[int]:
    """The devices of the first group, or of the first pair of a permutation that is not a device and itself."""
    if pairs := re.search(r"source_target_pairs=\{(\{[\d,{} ]*\})\}", rest):
        both = [[int(i) for i in pair.split(",")] for pair in re.findall(r"\{([\d, ]+)\}", pairs[1])]
        return next((pair for pair in both if pair[0] != pair[1]), [])
    if listed := re.search(r"replica_groups=\{\{([\d, ]*)\}", rest):
        return [int(i) for i in listed[1].split(",") if i.strip()]
    if iota := re.search(r"replica_groups=(\[[\d,]+\]<=\[[\d,]+\](?:T\([\d,]+\))?)", rest):
        return [int(i) for i in _iota(iota[1])[0]]
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((.*?)\))? \{([^}]*)\}", rest):
        return _of_mesh(*named.groups())
    return list(range(int(np.prod(list(axes.values())))))  # replica_groups={}: all


def _iota(text: str) -> np.ndarray:
    """Of "[4,2]<=[2,4]T(1,0)": 0 to 7 as [2,4], transposed, as [4,2]; "[2,4]T(1,0)" is left flat."""
    parts = re.fullmatch(r"(?:\[([\d,]+)\]<=)?\[([\d,]+)\](?:T\(([\d,]+)\))?", text)
    assert parts, text
    shape, source, order = ([int(i) for i in part.split(",")] if part else [] for part in parts.groups())
    ids = np.arange(np.prod(source)).reshape(source)
    return (ids.transpose(order) if order else ids).reshape(shape or -1)


def _of_mesh(sizes: str, order: str | None, crossed: str) -> list[int]:
    """Of "'a'=4,'b'=2" and "'a':(2)2,'b'": the first group crosses the named axes, or the part of one after (2)."""
    lengths = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", sizes)}
    shape, moving = [], []
    parts = {name: (pre, size) for name, pre, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", crossed)}
    for name, length in lengths.items():
        pre, size = (int(part) if part else 0 for part in parts.get(name, ("", "")))
        blocks = [pre, size, length // (pre * size)] if pre else [length]
        moving += [i == 1 for i in range(3)] if pre else [name in parts]
        shape += blocks
    ids = _iota(order) if order else np.arange(np.prod(shape))
    return [int(i) for i in ids.reshape(shape)[tuple(slice(None) if moves else 0 for moves in moving)].reshape(-1)]


def _axes(group: Sequence[int], axes: Mapping[str, int]) -> tuple[str, ...]:
    """The axes of the mesh along which devices of a group differ."""
    if len(group) < 2:
        return ()
    places = np.unravel_index(np.asarray(group), tuple(axes.values()))
    return tuple(name for name, place in zip(axes, places, strict=True) if len(set(place.tolist())) > 1)
