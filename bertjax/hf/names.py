"""What our parameters are called and how they lie in Hugging Face's files, by the tables of a model family."""

import math
import re
from collections.abc import Mapping
from types import ModuleType

import numpy as np

Shape = tuple[int, ...]

_POSITIONS = "encoder/embed/positions/table"
_LEAVES = {"table": "weight", "kernel": "weight", "scale": "weight", "bias": "bias"}


def head_names(family: ModuleType, architecture: str) -> dict[str, str]:
    """Module of ours -> theirs, of the encoder and of all heads; where classes differ, as `architecture` has it."""
    first = family.HF_HEADS.get(architecture, {})
    rest = {ours: theirs for heads in family.HF_HEADS.values() for ours, theirs in heads.items()}
    # Two of our heads may have one name there ("classifier"): the class tells which is meant, else the first of them.
    chosen: dict[str, str] = {}
    for ours, theirs in {**first, **{k: v for k, v in rest.items() if k not in first}}.items():
        if theirs not in chosen.values():
            chosen[ours] = theirs
    return {**family.HF_NAMES, **chosen}


def architecture_of(family: ModuleType, parts: set[str]) -> str:
    """The class whose heads are these top-level parts, the encoder not among them; "" where there is none."""
    for name, heads in family.HF_HEADS.items():
        if {ours.split("/")[0] for ours in heads} == parts:
            return name
    return "" if parts else list(family.HF_HEADS)[-1]


def their_name(path: str, names: Mapping[str, str]) -> str:
    """encoder/layer_3/attn/query/kernel -> bert.encoder.layer.3.attention.self.query.weight."""
    module, _, leaf = path.rpartition("/")
    layer = re.search(r"layer_(\d+)", module)
    theirs = names[re.sub(r"layer_\d+", "layer_{i}", module)]
    return f"{theirs.replace('{i}', layer[1] if layer else '')}.{_LEAVES[leaf]}"


def is_alternative(name: str, family: ModuleType, names: Mapping[str, str]) -> bool:
    """Whether a tensor of theirs has a place in another class than the one whose `names` these are."""
    module = name.rpartition(".")[0]
    return any(module in heads.values() for heads in family.HF_HEADS.values()) and module not in names.values()


def part_of(name: str, names: Mapping[str, str]) -> str:
    """The top-level part of ours that a tensor of theirs belongs to; "" for none."""
    module = re.sub(r"\.\d+\.", ".{i}.", name).rpartition(".")[0]
    return next((ours.split("/")[0] for ours, theirs in names.items() if theirs == module), "")


def their_shape(path: str, shape: Shape, unused: int = 0) -> Shape:
    """Shape of one of our arrays in their file: a Linear is [outputs, inputs], heads lie flat.

    The position table has `unused` rows more at its beginning.
    """
    if path.endswith("/table"):
        return (shape[0] + unused * (path == _POSITIONS), shape[1])
    inputs = _inputs(path)
    return (math.prod(shape[inputs:]), math.prod(shape[:inputs])) if inputs else (math.prod(shape),)


def to_theirs(path: str, array: np.ndarray, unused: int = 0) -> np.ndarray:
    """One of our arrays as it lies in their file."""
    if path.endswith("/table"):
        return np.pad(array, ((unused * (path == _POSITIONS), 0), (0, 0)))
    rows, *columns = their_shape(path, array.shape)
    return array.reshape(*columns, rows).T if columns else array.reshape(rows)


def to_ours(path: str, array: np.ndarray, shape: Shape) -> np.ndarray:
    """The inverse: one of their arrays in our shape."""
    if path.endswith("/table"):
        return array[len(array) - shape[0] :]
    return (array.T if _inputs(path) else array).reshape(shape)


def _inputs(path: str) -> int:
    """How many axes of a kernel are summed over; 0 for what is no kernel."""
    return 0 if not path.endswith("/kernel") else 2 if path.endswith("attn/out/kernel") else 1
