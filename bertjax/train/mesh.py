"""One named mesh, one table of rules: where every array of a run lies."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import jax
import numpy as np
from jax.experimental.mesh_utils import create_device_mesh, create_hybrid_device_mesh
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from bertjax.errors import ConfigError

# Path regex -> axes, for all families; the optimizer's moments match by the parameter path inside theirs.
# Embedding tables are cut on their rows only: cut on both axes, XLA gathers the whole table at every lookup.
RULES: tuple[tuple[str, P], ...] = (
    (r"embed/\w+/table$", P(("tensor", "fsdp"))),
    # On the units of a head: XLA for TPU lays the width on the lanes, and a gradient cut there in parts that are no
    # multiples of 128 (BERT-base, fsdp 4 or 8) is reduced whole on every device, and not scattered.
    (r"attn/(query|key|value)/kernel$", P(None, "tensor", "fsdp")),
    (r"attn/(query|key|value)/bias$", P("tensor")),
    (r"attn/out/kernel$", P("tensor", "fsdp")),
    (r"mlp/in/kernel$", P("fsdp", "tensor")),
    (r"mlp/in/bias$", P("tensor")),
    (r"mlp/out/kernel$", P("tensor", "fsdp")),
    (r"(mlp|attn)/out/bias$", P()),
    (r"norm/(scale|bias)$", P()),
    # Not on `tensor`: what comes out would be cut by its units, and nothing there goes on from such parts. Beside a
    # table that lies whole XLA 0.10 computed wrong gradients of that (data x fsdp x tensor, 1,002 words, not padded).
    (r"(pooler|mlm/transform)/kernel$", P("fsdp")),
    (r"(nsp|classify|span|tag|choose)/kernel$", P("fsdp")),
    (r"(pooler|mlm/transform|nsp|classify|span|tag|choose)/bias$", P()),
    (r"mlm/bias$", P(("tensor", "fsdp"))),
    (r"(^|/)(step|count|key)$", P()),
)
# What of a batch is cut on its length too, its last axis; the rest, which is said of a row, on its rows only.
BATCH_RULES: tuple[tuple[str, bool], ...] = (
    (r"^(tokens|types|sequence|positions|tags)$", True),
    (r"^(first_tokens|next_(labels|weights)|masked_(positions|targets|weights)|labels|weights|spans)$", False),
)
AXES = ("dcn", "data", "fsdp", "seq", "tensor")  # of every mesh, from the slowest links to the fastest
ROWS = P(("dcn", "data", "fsdp"))  # how the first axis of a batch is cut


@dataclass(frozen=True)
class MeshConfig:
    """How many devices each axis has; --mesh data=64,fsdp=4 gives several at once."""

    data: int = -1
    """copies of the model that share the batch; -1: all devices the other axes leave over"""
    fsdp: int = 0
    """devices that share batch, parameters and optimizer; 0: one, or with data=-1 as many as memory asks for"""
    tensor: int = 1
    """devices that share heads and hidden units"""
    seq: int = 1
    """devices that share the tokens of a row, for long rows; each gathers the keys and values of the others"""
    dcn: int = 0
    """slices of TPUs, or hosts of GPUs, with only the network between them, which share the batch; 0: as many slices of
    TPUs as there are"""

    def __post_init__(self) -> None:
        if self.data == 0 or self.data < -1 or min(self.tensor, self.seq) < 1 or min(self.fsdp, self.dcn) < 0:
            raise ConfigError(f"mesh {self}: sizes are at least 1")

    def __str__(self) -> str:
        given = (f for f in fields(self) if getattr(self, f.name) != f.default)
        return " ".join(f"{f.name}={getattr(self, f.name)}" for f in given)


def make_mesh(config: MeshConfig, devices: Sequence[Any] = ()) -> Mesh:
    """The mesh over these devices, or this program's; of more than are asked for the first ones of each slice."""
    devices = devices or jax.devices()
    dcn = config.dcn or slices_of(devices)
    rest = dcn * max(1, config.fsdp) * config.seq * config.tensor
    data = len(devices) // rest if config.data == -1 else config.data
    count = data * rest
    if not 1 <= count <= len(devices):
        raise ConfigError(
            f"mesh {config} needs {max(count, rest)} devices, here are {len(devices)} ({devices[0].platform}); lower "
            + " or ".join(f"--mesh.{f.name}" for f in fields(config) if getattr(config, f.name) > 1)
        )
    shape = (dcn, data, max(1, config.fsdp), config.seq, config.tensor)
    here = devices[0] in jax.devices()
    if count < len(devices) and jax.process_count() > 1 and here:
        raise ConfigError(f"each of {jax.process_count()} processes must have work: {idle(shape, len(devices))}")
    if len(devices) % count and devices[0].platform == "tpu":
        raise ConfigError(f"XLA for TPUs takes all chips, or a half, a quarter ...: {idle(shape, len(devices))}")
    return Mesh(_arranged(shape, _first(devices, count, dcn)), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def idle(sizes: Sequence[int], there: int) -> str:
    """What is to be said of devices that a mesh of these sizes leaves over: which sizes would take them."""
    used, data = math.prod(sizes), sizes[AXES.index("data")]
    if (most := there // (used // data)) > data:
        return f"{there - used} of {there} devices have nothing to do: give --mesh.data {most}, or leave it out"
    others = " x ".join(f"{name} {n}" for name, n in zip(AXES, sizes, strict=True) if name != "data" and n > 1)
    return f"{there - used} of {there} devices have nothing to do: {others} does not divide {there}"


def slices_of(devices: Sequence[Any]) -> int:
    """How many slices the TPUs are in (those of a single slice may not say which); 1 for other devices."""
    return len({getattr(device, "slice_index", None) for device in devices}) if devices[0].platform == "tpu" else 1


def _first(devices: Sequence[Any], count: int, dcn: int) -> Sequence[Any]:
    """So many devices, as many of each of `dcn` slices of TPUs, or hosts of others, where there are these."""
    name = "slice_index" if devices[0].platform == "tpu" else "process_index"
    slices: dict[int, list[Any]] = {}
    for device in devices:
        slices.setdefault(getattr(device, name, 0), []).append(device)
    chosen = [device for of_one in [*slices.values()][:dcn] for device in of_one[: count // dcn]]
    return chosen if len(chosen) == count else devices[:count]


def _arranged(shape: tuple[int, ...], devices: Sequence[Any]) -> np.ndarray:
    """Devices in the shape of a mesh: neighbours on the links of a TPU, as they come elsewhere."""
    slices = slices_of(devices)
    if slices not in (1, shape[0]):
        raise ConfigError(f"mesh dcn={shape[0]} over devices in {slices} slices; give --mesh.dcn {slices}, or none")
    if devices[0].platform != "tpu" or (slices == 1 and shape[0] > 1):
        return np.asarray(devices).reshape(shape)
    try:
        if slices > 1:
            inside, across = (1, *shape[1:]), (slices, *[1] * (len(shape) - 1))
            return create_hybrid_device_mesh(inside, across, devices, allow_split_physical_axes=True)
        return create_device_mesh(shape, devices, allow_split_physical_axes=True)
    except (NotImplementedError, ValueError, AssertionError):  # a part of a slice, or a shape that is not on its links
        return np.asarray(devices).reshape(shape)


def path_of(path: tuple[Any, ...]) -> str:
    """A jax key path as "encoder/embed/tokens/table"."""
    return "/".join(str(getattr(p, "key", getattr(p, "name", getattr(p, "idx", p)))) for p in path)


def spec_for(path: str, shape: tuple[int, ...], mesh: Mesh) -> P:
    """The rule for one array; axes that do not divide its shape are replicated."""
    return P(*(fit(axes, size, mesh) for axes, size in zip(_rule(path, shape), shape, strict=False)))


def _rule(path: str, shape: tuple[int, ...]) -> P:
    for pattern, spec in RULES:
        if re.search(pattern, path):
            return spec
    raise ConfigError(f"no sharding rule matches the array {path!r} {shape}; add one to bertjax/train/mesh.py RULES")


def fit(axes: str | tuple[str, ...] | None, size: int, mesh: Mesh) -> str | tuple[str, ...] | None:
    """These axes of a rule where they divide a size, else none."""
    names = (axes,) if isinstance(axes, str) else axes or ()
    return axes if size % math.prod(mesh.shape[name] for name in names) == 0 else None


def undivided(path: str, shape: tuple[int, ...], mesh: Mesh) -> bool:
    """Whether a rule wants this array cut but its shape does not divide, so that it is replicated instead."""
    return tuple(_rule(path, shape)) != tuple(spec_for(path, shape, mesh))


def undivided_in(tree: Any, mesh: Mesh) -> dict[str, Any]:  # noqa: ANN401 (any pytree)
    """The arrays of a tree, by path, that are not cut over all axes their rule names."""
    leaves = ((path_of(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree))
    return {path: leaf for path, leaf in leaves if undivided(path, leaf.shape, mesh)}


def bytes_on_device(tree: Any) -> int:  # noqa: ANN401 (any pytree)
    """Bytes that one device holds of arrays with shardings, abstract or real."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)


def row_ways(mesh: Mesh) -> int:
    """Into how many parts the rows of a batch are cut."""
    return math.prod(mesh.shape[name] for name in ROWS[0])


def check_batch(batch_size: int, lengths: Iterable[int], micro_batches: int, mesh: Mesh) -> None:
    """Raises where a batch cannot be cut into equal micro-batches over the mesh, or rows of such lengths over `seq`."""
    seq = mesh.shape["seq"]
    for length in lengths:
        if length % seq:
            raise ConfigError(f"length={length} does not divide into seq={seq} devices; nearest: {_near(length, seq)}")
    ways = row_ways(mesh) * micro_batches
    if batch_size % ways:
        sizes = " x ".join(f"{name}={mesh.shape[name]}" for name in ROWS[0] if name != "dcn" or mesh.shape[name] > 1)
        raise ConfigError(
            f"batch_size={batch_size} does not divide into {sizes} devices x micro_batches={micro_batches} = {ways}; "
            f"nearest: {_near(batch_size, ways)}"
        )


def _near(size: int, ways: int) -> str:
    low = size // ways * ways
    return ", ".join(str(near) for near in (low, low + ways) if near)


@lru_cache  # every array of every batch asks
def local_rows(batch_size: int, mesh: Mesh) -> np.ndarray:
    """Which rows of a batch this host's devices have, ascending: i64[b]; all of them where there is one host."""
    slices = NamedSharding(mesh, ROWS).addressable_devices_indices_map((batch_size,)).values()
    rows = np.unique(np.concatenate([np.arange(batch_size)[index] for index in slices]))
    rows.flags.writeable = False
    return rows


def batch_sharding(name: str, shape: Sequence[int], mesh: Mesh) -> NamedSharding:
    """Where an array of a batch lies, by `BATCH_RULES`."""
    for pattern, by_length in BATCH_RULES:
        if re.search(pattern, name):
            if not by_length or mesh.shape["seq"] == 1:
                return NamedSharding(mesh, ROWS)
            if shape[-1] % mesh.shape["seq"]:
                raise ConfigError(f"rows of {shape[-1]} tokens do not divide into mesh seq={mesh.shape['seq']}")
            return NamedSharding(mesh, P(*ROWS, *[None] * (len(shape) - 2), "seq"))
    raise ConfigError(f"no rule says how {name!r} of a batch is cut; add one to bertjax/train/mesh.py BATCH_RULES")


def abstract_batch(rows: Mapping[str, np.ndarray], batch_size: int, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes, types and shardings of `batch_size` rows like these."""
    shapes = {name: (batch_size, *value.shape[1:]) for name, value in rows.items()}
    return {
        name: jax.ShapeDtypeStruct(shapes[name], value.dtype, sharding=batch_sharding(name, shapes[name], mesh))
        for name, value in rows.items()
    }


def put(value: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """An array that every host has whole, as one over the mesh."""
    return jax.make_array_from_callback(value.shape, sharding, value.__getitem__)


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Host rows -> global arrays cut over the mesh; every host gives its own rows, those of `local_rows`."""
    return {name: _put(value, batch_sharding(name, value.shape, mesh), mesh) for name, value in batch.items()}


def _put(value: np.ndarray, sharding: NamedSharding, mesh: Mesh) -> jax.Array:
    ways = row_ways(mesh)
    size = len(value) * ways // len(local_rows(ways, mesh))
    own = local_rows(size, mesh)

    def part(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None
        first, behind = np.searchsorted(own, [index[0].start or 0, size if index[0].stop is None else index[0].stop])
        return value[first:behind][(slice(None), *index[1:])]

    return jax.make_array_from_callback((size, *value.shape[1:]), sharding, part)
