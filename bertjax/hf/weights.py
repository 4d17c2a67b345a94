"""The tensors of a Hugging Face directory under our names; whatever does not fit is reported at once."""

import difflib
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bertjax.contracts import ObjectiveConfig, Params
from bertjax.errors import DataError
from bertjax.hf import config_json, names
from bertjax.hf.tensors import Tensors
from bertjax.hf.tf1 import Tf1Tensors
from bertjax.objectives import features, mlm, supervised
from bertjax.train.mesh import path_of, put
from bertjax.train.state import param_shapes

SHOWN = 10  # mismatches of a kind in a message
UNUSED = re.compile(r"(^|\.)embeddings\.(position_ids|token_type_ids)$")  # counted up anew by every reader


class Weights:
    """The tensors of a directory under our names."""

    def __init__(self, folder: Path, about: config_json.Described, tensors: Tensors | Tf1Tensors) -> None:
        self.folder, self._family = folder, about.family
        self._tensors = tensors
        self._names = names.head_names(about.family, about.architecture)
        prefix = about.family.HF_PREFIX
        self._found: dict[str, str] = {}  # their name in full -> as it stands in the file
        twice = []
        for name in self._tensors.shapes:
            full = _modern(name)
            if not names.part_of(full, self._names) and names.part_of(prefix + full, self._names):
                full = prefix + full
            if full in self._found:
                twice.append(f"{name} and {self._found[full]} are the same")
            if not UNUSED.search(full) and not names.is_alternative(full, about.family, self._names):
                self._found[full] = name
        self._tie()
        found = {names.part_of(name, self._names) for name in self._found}
        self.parts = sorted((found | {"encoder"}) - {""})
        self.classes = self._classes()
        self.shapes: dict[str, Any] = {}  # of all parts, as abstract arrays
        self._check(about, twice)

    def params(self, like: Params) -> Params:
        """The parts named in `like` (abstract arrays with shardings)."""
        absent = sorted(set(like) - set(self.parts))
        if absent:
            raise DataError(f"{self.folder}: the weights have no {', '.join(absent)}; they have {self.parts}")

        def read(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.Array:
            array = self._tensors.read(self._found[names.their_name(path_of(path), self._names)])
            ours = np.ascontiguousarray(names.to_ours(path_of(path), array, leaf.shape))
            return put(ours, leaf.sharding)

        return jax.tree_util.tree_map_with_path(read, like)

    def _tie(self) -> None:
        """Takes out what repeats other tensors; a decoder with weights of its own is no BERT."""
        for name, original in self._family.HF_TIED.items():
            if name not in self._found:
                continue
            stored = self._found.pop(name)
            if original not in self._found:
                self._found[original] = stored
            elif not np.array_equal(self._tensors.read(stored), self._tensors.read(self._found[original])):
                raise DataError(f"{self.folder}: {name} is not {original}; models with an untied output are not known")

    def _classes(self) -> int:
        """Outputs of the head that classifies texts or tokens; 0 without one."""
        head = next((part for part in ("classify", "tag") if part in self.parts), "")
        if not head:
            return 0
        shape = self._tensors.shapes.get(self._found.get(f"{self._names[head]}.weight", ""), (0,))
        return shape[0] if shape else 0

    def _check(self, about: config_json.Described, twice: list[str]) -> None:
        model: Any = about.model
        stored = {int(number[1]) for name in self._found if (number := re.search(r"\.layer\.(\d+)\.", name))}
        if stored != set(range(model.layers)):
            raise DataError(
                f"{self.folder}: config.json has {model.layers} layers, the weights have {len(stored)} (the last is "
                f"number {max(stored, default=-1)}, from 0); get the directory anew"
            )
        for objective in _all_heads(self.parts, self.classes, about.head_dropout):
            if set(self.parts) - self.shapes.keys():  # each is a trace of the whole model
                shapes = param_shapes(objective.build(model))
                self.shapes |= {part: shapes[part] for part in self.parts if part in shapes}
        wanted: dict[str, tuple[int, ...]] = {}
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.shapes):
            ours = path_of(path)
            wanted[names.their_name(ours, self._names)] = names.their_shape(ours, leaf.shape, about.unused_positions)
        problems = twice + [f"missing: {name}" for name in wanted.keys() - self._found.keys()]
        problems += [f"not known: {self._found[name]}" for name in self._found.keys() - wanted.keys()]
        for name in wanted.keys() & self._found.keys():
            if (shape := self._tensors.shapes[self._found[name]]) != wanted[name]:
                problems.append(f"{self._found[name]}: the file has {shape}, config.json means {wanted[name]}")
        if problems:
            raise DataError(self._report(sorted(problems), wanted))

    def _report(self, problems: list[str], wanted: Iterable[str]) -> str:
        """A message with some of each kind, the nearest name beside those that are missing or not known."""
        lines, shown = [], Counter[str]()
        for line in problems:
            kind, _, name = line.partition(": ")
            others = {"missing": list(self._found), "not known": list(wanted)}.get(kind, [])
            shown[kind if others else ""] += 1
            if shown[kind if others else ""] <= SHOWN:
                near = difflib.get_close_matches(name, others[:1_000], n=1)
                lines.append(line + (f" (nearest: {near[0]})" if near else ""))
        if len(problems) > len(lines):
            lines.append(f"and {len(problems) - len(lines)} more")
        listed = "\n  ".join(lines)
        return f"{self.folder}: the weights do not fit config.json:\n  {listed}\nGet the directory anew, or correct it."


def _modern(name: str) -> str:
    """The name as it is written today: LayerNorm.gamma and .beta are those of the first files."""
    for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def task_heads(parts: Iterable[str], classes: int, dropout: float) -> list[supervised.Config]:
    """The objectives of the tasks' heads among the parts; one output is a regression."""
    counts = {"classify": 0 if classes == 1 else classes, "tag": max(classes, 2), "span": 0, "choose": 0}
    return [supervised.Config(counts[head], dropout, head) for head in supervised.HEADS if head in parts]


def _all_heads(parts: Iterable[str], classes: int, dropout: float) -> list[ObjectiveConfig]:
    """Objectives that together have all parts, first those that weights are mostly for."""
    found = set(parts)
    pretraining = [mlm.Config()] if "nsp" in found else [mlm.Config("full-sentences")] if "mlm" in found else []
    return [*pretraining, *task_heads(found, classes, dropout), features.Config(pooler="pooler" in found)]
