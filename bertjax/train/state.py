"""What a step changes, and how it begins: its shapes from a trace of the model, its numbers drawn on the host."""

import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from bertjax.contracts import Compute, Objective, Params
from bertjax.errors import ConfigError
from bertjax.initial import Initializer, noted
from bertjax.keys import HASHED
from bertjax.train.mesh import path_of, put
from bertjax.train.padding import held, padded, stored

PARAMETERS, STEPS = 7, 8  # what a stream of random numbers is for comes first; those of the data have 1 to 6


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Everything a step changes."""

    step: jax.Array  # i32[]: updates done
    params: Params
    opt_state: Any
    key: jax.Array  # u32[2]: never changes; a step's randomness is fold_in(key, step)


def init_state(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    mesh: Mesh,
    trained: Params | None = None,
) -> TrainState:
    """A fresh state, every array where the rules put it. Its numbers do not depend on the mesh.

    Parameters in `trained`, which are in their place already, are taken from there and not drawn.
    """
    like = planned_state(objective, optimizer, mesh)
    params = padded(init_params(objective, seed, trained), like.params)
    key = np.random.SeedSequence((STEPS, seed)).generate_state(2)
    first: Any = (np.zeros((), np.int32), params, optimizer.init(params), key)

    def placed(value: Any, to: jax.ShapeDtypeStruct) -> jax.Array:  # noqa: ANN401 (an array of either library)
        there = isinstance(value, jax.Array) and value.sharding == to.sharding
        return value if there else put(np.asarray(value), to.sharding)

    return jax.tree.map(placed, TrainState(*first), like)


def init_params(objective: Objective, seed: int, trained: Params | None = None) -> Params:
    """The parameters of a fresh state, f32 on the host; those in `trained` as they are there."""
    shapes, initializers = _traced(objective.using(Compute()))
    known = {path_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(trained or {})}

    def first(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> Any:  # noqa: ANN401 (as above)
        name = path_of(path)
        return known[name] if name in known else _drawn(name, leaf.shape, initializers, seed)

    return jax.tree_util.tree_map_with_path(first, shapes)


def _drawn(path: str, shape: tuple[int, ...], initializers: dict[str, Initializer], seed: int) -> np.ndarray:
    initializer = initializers.get(path)
    if not isinstance(initializer, Initializer):
        raise ConfigError(
            f"nothing says how the parameter {path!r} {shape} is drawn on the host: its module must be a "
            f"bertjax.nn.params.Module, its initializer one of bertjax/initial.py; it is {initializer!r}"
        )
    return initializer.drawn(np.random.default_rng((PARAMETERS, seed, zlib.crc32(path.encode()))), shape)


def param_shapes(objective: Objective) -> Params:
    """Shapes and types of the parameters; nothing is computed."""
    return _traced(objective.using(Compute()))[0]


@lru_cache(maxsize=8)  # tracing a model takes as long as many steps of a small one
def _traced(objective: Objective) -> tuple[Params, dict[str, Initializer]]:
    """Shapes of the parameters, and how each begins. Neither depends on a batch, so the smallest one serves."""
    ids, ones = np.zeros((1, 1), np.int32), np.ones((1, 1), np.float32)
    batch: dict[str, np.ndarray] = {name: ids for name in ("tokens", "types", "sequence", "positions", "first_tokens")}
    batch |= {"masked_positions": ids, "masked_targets": ids, "masked_weights": ones}
    batch |= {"next_labels": ids, "next_weights": ones, "labels": ids[0], "weights": ones[0]}
    batch |= {"spans": np.zeros((1, 2), np.int32), "tags": ids}

    def made(data: jax.Array, batch: Any) -> Params:  # noqa: ANN401 (a batch, abstract)
        return objective.init(jax.random.wrap_key_data(data, impl=HASHED), batch, train=False)["params"]

    with noted() as initializers:
        return jax.eval_shape(made, jax.ShapeDtypeStruct((2,), jnp.uint32), batch), initializers


def planned_state(objective: Objective, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Shapes, types and shardings of the state that `init_state` would make; nothing is computed."""
    return held(_shapes(objective.using(Compute()), optimizer), mesh)


def stored_state(objective: Objective, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """The same as checkpoints have it, to read and to write them on this mesh."""
    return stored(_shapes(objective.using(Compute()), optimizer), mesh)


@lru_cache(maxsize=8)
def _shapes(objective: Objective, optimizer: optax.GradientTransformation) -> TrainState:
    def first(params: Params) -> TrainState:
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), jnp.zeros(2, jnp.uint32))

    return jax.eval_shape(first, _traced(objective)[0])
