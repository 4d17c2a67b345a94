"""One named mesh, one table of rules: where every array of a run lies."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from bertjax.errors import ConfigError

# Path regex -> axes, for all families; the optimizer's moments match by the parameter path inside theirs.
# Embedding tables are cut on their rows only: cut on both axes, XLA gathers the whole table at every lookup.
RULES: tuple[tuple[str, P], ...] = (
    (r"embed/\w+/table$", P(("tensor", "fsdp"))),
    (r"attn/(query|key|value)/kernel$", P("fsdp", "tensor")),
    (r"attn/(query|key|value)/bias$", P("tensor")),
    (r"attn/out/kernel$", P("tensor", None, "fsdp")),
    (r"mlp/in/kernel$", P("fsdp", "tensor")),
    (r"mlp/in/bias$", P("tensor")),
    (r"mlp/out/kernel$", P("tensor", "fsdp")),
    (r"(mlp|attn)/out/bias$", P()),
    (r"norm/(scale|bias)$", P()),
    (r"(pooler|mlm/transform)/kernel$", P("fsdp", "tensor")),
    (r"(nsp|classify|span|tag|choose)/kernel$", P("fsdp")),
    (r"(pooler|mlm/transform|nsp|classify|span|tag|choose)/bias$", P()),
    (r"mlm/bias$", P(("tensor", "fsdp"))),
    (r"(^|/)(step|count|key)$", P()),
)
ROWS = P(("data", "fsdp"))  # how the first axis of a batch is cut


@dataclass(frozen=True)
class MeshConfig:
    """How many devices each axis has."""

    data: int = -1
    """copies of the model that share the batch; -1: all devices the other axes leave over"""
    fsdp: int = 1
    """devices that share batch, parameters and optimizer"""
    tensor: int = 1
    """devices that share heads and hidden units"""

    def __post_init__(self) -> None:
        if self.data == 0 or self.data < -1 or min(self.fsdp, self.tensor) < 1:
            raise ConfigError(f"mesh data={self.data} fsdp={self.fsdp} tensor={self.tensor}: sizes are at least 1")


def make_mesh(config: MeshConfig, devices: Sequence[Any] = ()) -> Mesh:
    """The mesh over these devices, or this program's; with fewer asked for than there are, the first ones are taken."""
    devices = devices or jax.devices()
    rest = config.fsdp * config.tensor
    data = len(devices) // rest if config.data == -1 else config.data
    count = data * rest
    if not 1 <= count <= len(devices):
        raise ConfigError(
            f"mesh data={config.data} fsdp={config.fsdp} tensor={config.tensor} needs {max(count, rest)} devices, "
            f"here are {len(devices)} ({devices[0].platform}); lower --mesh.fsdp or --mesh.tensor"
        )
    shape = (data, config.fsdp, config.tensor)
    return Mesh(np.asarray(devices[:count]).reshape(shape), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)


def path_of(path: tuple[Any, ...]) -> str:
    """A jax key path as "encoder/embed/tokens/table"."""
    return "/".join(str(getattr(p, "key", getattr(p, "name", getattr(p, "idx", p)))) for p in path)


def spec_for(path: str, shape: tuple[int, ...], mesh: Mesh) -> P:
    """The rule for one array; axes that do not divide its shape are replicated. No rule at all is an error."""
    for pattern, spec in RULES:
        if re.search(pattern, path):
            return P(*(_fit(axes, size, mesh) for axes, size in zip(spec, shape, strict=False)))
    raise ConfigError(f"no sharding rule matches the array {path!r} {shape}; add one to bertjax/train/mesh.py RULES")


def _fit(axes: str | tuple[str, ...] | None, size: int, mesh: Mesh) -> str | tuple[str, ...] | None:
    names = (axes,) if isinstance(axes, str) else axes or ()
    return axes if size % math.prod(mesh.shape[name] for name in names) == 0 else None


def undivided(path: str, shape: tuple[int, ...], mesh: Mesh) -> bool:
    """Whether a rule wants this array cut but its shape does not divide, so that it is replicated instead."""
    for pattern, spec in RULES:
        if re.search(pattern, path):
            return tuple(spec) != tuple(spec_for(path, shape, mesh))
    return False


def shardings(tree: Any, mesh: Mesh) -> Any:  # noqa: ANN401 (any pytree)
    """The NamedSharding of every array of a tree (abstract or real)."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: NamedSharding(mesh, spec_for(path_of(path), leaf.shape, mesh)), tree
    )


def bytes_on_device(tree: Any) -> int:  # noqa: ANN401 (any pytree)
    """Bytes that one device holds of arrays with shardings, abstract or real."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)


def check_batch(batch_size: int, micro_batches: int, mesh: Mesh) -> None:
    """Raises where a batch cannot be cut into equal micro-batches over the mesh."""
    ways = mesh.shape["data"] * mesh.shape["fsdp"] * micro_batches
    if batch_size % ways:
        low = batch_size // ways * ways
        near = ", ".join(str(b) for b in (low, low + ways) if b)
        raise ConfigError(
            f"batch_size={batch_size} does not divide into data={mesh.shape['data']} x fsdp={mesh.shape['fsdp']} "
            f"devices x micro_batches={micro_batches} = {ways}; nearest: {near}"
        )


def local_rows(batch_size: int, mesh: Mesh) -> np.ndarray:
    """Which rows of a batch this host's devices have, ascending: i64[b]; all of them where there is one host."""
    slices = NamedSharding(mesh, ROWS).addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[index] for index in slices]))


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Host rows -> global arrays cut over the mesh; every host gives its own rows, those of `local_rows`."""
    sharding = NamedSharding(mesh, ROWS)
    return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()}
