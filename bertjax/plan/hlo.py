"""What a compiled program sends between devices, read from its HLO text."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
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


class _Instruction(NamedTuple):
    type: str
    opcode: str
    rest: str


_HEADER = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
_LINE = re.compile(r"\s+(?:ROOT )?%?[\w.\-]+ = (.*)")
_OPCODE = re.compile(r"(?:^|\s)([a-z][\w\-]*)\(")
_CALLS = re.compile(
    r"(calls|to_apply|body|condition|branch_computations|called_computations)="
    r"(\{[^}]*\}|%?[\w.\-]+)"
)
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\]")


def collectives(text: str, axes: Mapping[str, int]) -> list[Collective]:
    """All of a step, those in loops as often as these run; `axes` are the sizes of the mesh, in its order."""
    entry, computations = _computations(text)
    # XLA for TPU hides a gather behind computation by putting pieces of it into several fusions, all of one channel.
    # Other ones may share a channel too, each for itself: parts of one reduction of a large gradient, outside of
    # fusions, and all it makes of several reduce-scatters, each of which is a fusion.
    channels: dict[tuple[object, ...], Collective] = {}
    for instruction, times, place, fused in _walk(computations, entry, 1):
        one = _read(instruction, times, place, axes)
        if one:
            in_pieces = fused and one.kind != "reduce-scatter"
            channel = re.search(r"channel_id=(\d+)", instruction.rest) if in_pieces else None
            name = (one.kind, one.axes, one.elements // times, channel[0] if channel else len(channels))
            channels[name] = max(channels.get(name, one), one, key=lambda c: c.sent)
    return _summed(channels.values())


def _read(instruction: _Instruction, times: int, place: str, axes: Mapping[str, int]) -> Collective | None:
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
    return Collective(kind, crossed, n, times, elements * times, size * times, round(size * times * SENT[kind](n)))


def _across_slices(instruction: _Instruction, times: int, axes: Mapping[str, int]) -> Collective:
    """What goes from slice to slice is handed to the host: a send that says what it is a part of."""
    found = re.search(r'megascale_transfer_type="(\w+)"', instruction.rest)
    kind = found[1].lower().replace("_", "-") if found else ""
    kind = kind if kind in KINDS else "collective-permute"
    elements, size = _size(instruction.type.split("u32[]")[0])
    n = axes.get(SLICES, 1)
    return Collective(kind, (SLICES,), n, times, elements * times, size * times, round(size * times * SENT[kind](n)))


def _summed(each: Iterable[Collective]) -> list[Collective]:
    """Those of the same kind, axes and number of devices as one, what sends most first."""
    totals: dict[tuple[str, tuple[str, ...], int], np.ndarray] = {}
    for one in each:
        totals[one[:3]] = totals.get(one[:3], np.zeros(4, np.int64)) + np.array(one[3:])
    return sorted((Collective(*key, *value.tolist()) for key, value in totals.items()), key=lambda c: -c.sent)


def _computations(text: str) -> tuple[str, dict[str, list[_Instruction]]]:
    entry, current = "", ""
    found: dict[str, list[_Instruction]] = {}
    for line in text.splitlines():
        if not line.startswith(" ") and (header := _HEADER.match(line)):
            current = header[2]
            found[current] = []
            entry = current if header[1] else entry
        elif current and (body := _LINE.match(line)) and (opcode := _OPCODE.search(body[1])):
            found[current].append(_Instruction(body[1][: opcode.start()], opcode[1], body[1][opcode.end() :]))
    return entry, found


def _walk(
    computations: Mapping[str, Sequence[_Instruction]], name: str, times: int, fused: bool = False
) -> Iterator[tuple[_Instruction, int, str, bool]]:
    """The collectives of a computation and of all that it calls: how often each runs, where, and if in a fusion."""
    for instruction in computations.get(name, ()):
        across = instruction.opcode == "send" and "megascale_transfer_type" in instruction.rest
        if across or instruction.opcode.removesuffix("-start") in KINDS:
            yield instruction, times, name, fused
            continue
        called = {kind: re.findall(r"[\w.\-]+", names) for kind, names in _CALLS.findall(instruction.rest)}
        rounds = times
        if instruction.opcode == "while":
            rounds *= _trips(instruction.rest, computations.get(called["condition"][0], ()))
        for names in called.values():
            for other in names:
                yield from _walk(computations, other, rounds, fused or instruction.opcode == "fusion")


def _trips(rest: str, condition: Sequence[_Instruction]) -> int:
    """How often a loop runs: as XLA says, or the one constant its condition compares with; once if neither tells."""
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', rest):
        return int(known[1])
    constants = {int(found[1]) for i in condition if i.opcode == "constant" and (found := re.match(r"(\d+)\)", i.rest))}
    return constants.pop() if len(constants) == 1 else 1


def _whole(instruction: _Instruction, kind: str, n: int) -> tuple[int, int]:
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
    elements = size = 0
    for dtype, shape in _ARRAY.findall(arrays):
        count = int(np.prod([int(d) for d in shape.split(",") if d], dtype=np.int64))
        bits = WIDTHS.get(dtype) or int(next(iter(re.findall(r"\d+", dtype)), 32))
        elements, size = elements + count, size + count * bits // 8
    return elements, size


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
