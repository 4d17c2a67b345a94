"""What a compiled program reads and writes in its device's memory, counted in its HLO text."""

from collections.abc import Sequence

from bertjax.plan.hlo import Array, Computations, Instruction, arrays_of, computations_of, trips

# They move nothing: names for what is there already, or counted where it is used.
NOTHING = (
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "opt-barrier", "optimization-barrier"),
    *("after-all", "add-dependency", "partition-id", "replica-id", "send", "recv"),
)
NAMES = ('"ConcatBitcast"', '"AllocateBuffer"')  # likewise, of XLA for TPU's custom calls
SLICING = ("slice", "dynamic-slice", "gather")  # they read as much as they write, whatever the size of the operand
UPDATE = "dynamic-update-slice"  # in place: as much as the update
MOVING = ("copy", *SLICING)
IN_PIECES = "async_collective_fusion_config"  # a gather of XLA for TPU: in several fusions, whole in each


def traffic(text: str) -> int:
    """Bytes of one run: the operands and results of every operation, loops as often as they run.

    What a fusion keeps inside is not there, nor arrays in a memory on the chip (TPUs' VMEM); of what is copied there
    and back the one side counts. Caches, as GPUs have, and the padding of arrays are left out.
    """
    entry, computations = computations_of(text)
    return _of(entry, computations)


def _of(name: str, computations: Computations) -> int:
    body = {one.name: one for one in computations.get(name, ())}
    return sum(_one(instruction, body, computations) for instruction in body.values())


def _one(one: Instruction, made: dict[str, Instruction], computations: Computations) -> int:
    """Of an instruction; `made` are those of its computation."""
    calls = [name for names in one.calls.values() for name in names]
    if one.opcode == "while":
        return trips(one, computations) * sum(_of(name, computations) for name in calls)
    if one.opcode in ("call", "conditional"):
        return max((_of(name, computations) for name in calls), default=0)
    if one.opcode in NOTHING or one.opcode.endswith(("-start", "-update")) or any(name in one.rest for name in NAMES):
        return 0
    if one.opcode.endswith("-done"):
        return _asynchronous(one, made, computations)
    inside = {each.name: each for each in computations[calls[0]]} if one.opcode == "fusion" else {}
    return _written(one, made, inside) + _read(one, made, inside)


def _asynchronous(done: Instruction, made: dict[str, Instruction], computations: Computations) -> int:
    """What began earlier: at its end, where the type is that of the result alone."""
    start = made[done.operands[0]]
    while start.opcode.endswith("-update"):
        start = made[start.operands[0]]
    result = arrays_of(done.type)
    if start.opcode == "get-tuple-element":  # it began before the loop, or in its last round
        return _bytes(result)
    sources = [array for name in start.operands for array in arrays_of(made[name].type)]
    wrapped = [each.opcode for name in start.calls.get("calls", ()) for each in computations[name] if each.root]
    if (wrapped or [start.opcode.removesuffix("-start")])[0] not in MOVING:
        return _bytes(result) + _bytes(sources)
    return _bytes(result) + sources[0].main * sum(array.bytes for array in result)


def _written(one: Instruction, made: dict[str, Instruction], inside: dict[str, Instruction]) -> int:
    """Of what is changed in place the change."""
    results, within = arrays_of(one.type), inside or made
    root = next((each for each in inside.values() if each.root), one)
    parts = [inside[name] for name in root.operands] if root.opcode == "tuple" else [root]
    if len(parts) != len(results):
        return _bytes(results)
    total = 0
    for part, result in zip(parts, results, strict=True):
        if part.opcode == "parameter" or IN_PIECES in part.rest:  # it is there already, or not counted
            continue
        size = _all(within[part.operands[1]]) if part.opcode == UPDATE else result.bytes
        total += size * result.main
    return total


def _read(one: Instruction, made: dict[str, Instruction], inside: dict[str, Instruction]) -> int:
    """Of what is cut out of an operand that; an operand that is taken twice is read once."""
    parameters = {int(each.rest.partition(")")[0]): name for name, each in inside.items() if each.opcode == "parameter"}
    total = 0
    for name in dict.fromkeys(one.operands):
        whole = _bytes(arrays_of(made[name].type))
        users = _users(parameters[one.operands.index(name)], inside) if inside else [(name, one)]
        parts = [_part(of, user) for of, user in users]
        total += whole if None in parts else min(whole, sum(filter(None, parts)))
    return total


def _users(name: str, inside: dict[str, Instruction]) -> list[tuple[str, Instruction]]:
    """What takes an array in a fusion, under whichever name."""
    found = []
    for each in inside.values():
        if name in each.operands:
            found += _users(each.name, inside) if each.opcode == "bitcast" else [(name, each)]
    return found


def _part(name: str, user: Instruction) -> int | None:
    """Bytes that an operation reads of an array; None: all of them."""
    if user.opcode == "tuple" or IN_PIECES in user.rest:
        return 0
    if user.operands.index(name) or user.operands.count(name) > 1:
        return None
    return _all(user) if user.opcode in SLICING else 0 if user.opcode == UPDATE else None


def _all(of: Instruction) -> int:
    return sum(array.bytes for array in arrays_of(of.type))


def _bytes(arrays: Sequence[Array]) -> int:
    return sum(array.bytes for array in arrays if array.main)
