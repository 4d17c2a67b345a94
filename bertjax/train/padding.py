"""The vocabulary in equal parts: on a mesh that cuts the token table it has more rows than a checkpoint.

BERT's 30,522 words are no multiple of 4, so that the table, its moments and the logits would lie whole on every device.
On the disk they are what they are without a mesh, so that a run goes on with any other.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from bertjax.contracts import Compute
from bertjax.train.mesh import fit, path_of, spec_for

WORDS = r"(embed/tokens/table|mlm/bias)$"  # the arrays with a row for each word


def held_shape(path: str, shape: tuple[int, ...], mesh: Mesh) -> tuple[int, ...]:
    """The shape on a mesh of an array that has this one on the disk."""
    return (Compute(mesh=mesh).padded_vocab_size(shape[0]), *shape[1:]) if re.search(WORDS, path) else shape


def held(tree: Any, mesh: Mesh) -> Any:  # noqa: ANN401 (any pytree)
    """Shapes, types and shardings on a mesh of the arrays of a tree, which are as on the disk."""

    def one(path: tuple[Any, ...], leaf: Any) -> jax.ShapeDtypeStruct:  # noqa: ANN401 (an array, abstract or real)
        name = path_of(path)
        shape = held_shape(name, leaf.shape, mesh)
        return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=NamedSharding(mesh, spec_for(name, shape, mesh)))

    return jax.tree_util.tree_map_with_path(one, tree)


def stored(tree: Any, mesh: Mesh) -> Any:  # noqa: ANN401 (any pytree)
    """The same arrays as they are read from the disk and written: what `held` resizes is cut by its columns."""

    def one(leaf: Any, on_mesh: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:  # noqa: ANN401 (as above)
        if leaf.shape == on_mesh.shape:
            return on_mesh
        columns = (fit(("tensor", "fsdp"), size, mesh) for size in leaf.shape[1:])
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, P(None, *columns)))

    return jax.tree.map(one, tree, held(tree, mesh))


def padded(tree: Any, like: Any) -> Any:  # noqa: ANN401 (any pytree)
    """Arrays on the host with the rows of `like`, of `held`: those that are new are zeros."""

    def one(x: Any, to: Any) -> Any:  # noqa: ANN401 (what has its shape already may lie on devices)
        return x if x.shape == to.shape else np.pad(x, ((0, to.shape[0] - len(x)), *[(0, 0)] * (x.ndim - 1)))

    return jax.tree.map(one, tree, like)


def resized(tree: Any, like: Any) -> Any:  # noqa: ANN401 (any pytree)
    """Arrays on devices with the rows of `like`, of `held` or `stored`, and where it has them: less, or zeros more."""
    return jax.tree.map(lambda x, to: x if x.shape == to.shape else _resizing(to.shape[0], to.sharding)(x), tree, like)


@lru_cache
def _resizing(rows: int, sharding: NamedSharding) -> Callable[[jax.Array], jax.Array]:
    def resize(x: jax.Array) -> jax.Array:
        more = max(0, rows - len(x))
        return jnp.pad(x, ((0, more), *[(0, 0)] * (x.ndim - 1)))[:rows]

    return jax.jit(resize, out_shardings=sharding)
