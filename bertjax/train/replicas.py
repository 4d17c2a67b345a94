"""Whether devices that should hold the same numbers do: memory or arithmetic that fails in silence is seen here."""

from collections import Counter
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bertjax.compiled import repeatable
from bertjax.errors import AGAIN, UserError
from bertjax.train import hosts
from bertjax.train.mesh import path_of
from bertjax.train.state import TrainState


class Corrupted(UserError):
    """A state of which devices hold different copies: the same command goes on from the last checkpoint."""

    code = AGAIN


def check_replicas(state: TrainState, mesh: Mesh, step: int) -> None:
    """Raises where the copies of any array of a state are not equal bit for bit.

    A device reads its part once, and gives a number for each array, in which no bit may flip unseen. Of three or more
    copies the one that differs is at fault.
    """
    found = differing(state, mesh)
    if not found:
        return
    first, suspects = next(iter(found.items()))
    more = f" and {len(found) - 1} other arrays" if len(found) > 1 else ""
    suspect = suspects[0] if len(suspects) == 1 else f"one of {', '.join(suspects)}"
    hosts.stopped_together()
    raise Corrupted(
        f"after step {step} devices hold different copies of {first}{more}; at fault is {suspect}, its memory or "
        "arithmetic. Nothing of it was saved: the same command goes on from the last checkpoint; if it comes again, "
        "without that machine"
    )


def differing(state: TrainState, mesh: Mesh) -> dict[str, list[str]]:
    """Of each array whose copies are not equal the devices that may be at fault.

    None where devices that compute the same need not come to the same.
    """
    if mesh.size == 1 or not repeatable():
        return {}
    digests, held = {}, {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        parts = _parts(leaf.sharding, leaf.shape)
        if len(set(parts)) < mesh.size:
            digests[path_of(path)], held[path_of(path)] = _digests(leaf, mesh, leaf.sharding.spec), parts
    told = np.asarray(_known_to_all(list(digests.values()), NamedSharding(mesh, PartitionSpec())))
    found = {name: _suspects(numbers, held[name], mesh) for name, numbers in zip(digests, told, strict=True)}
    return {name: suspects for name, suspects in found.items() if suspects}


@cache
def _parts(sharding: NamedSharding, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Which part of an array each device holds, in the order of the mesh."""
    held = sharding.devices_indices_map(shape)
    return tuple(str(held[device]) for device in sharding.mesh.devices.flat)


@partial(jax.jit, static_argnames=("mesh", "spec"))
def _digests(leaf: jax.Array, mesh: Mesh, spec: PartitionSpec) -> jax.Array:
    """A number for what each device holds of an array, u32[devices], each on its device."""

    def here(part: jax.Array) -> jax.Array:
        bits = jax.lax.bitcast_convert_type(part, jnp.dtype(f"uint{8 * part.dtype.itemsize}"))
        return jnp.sum(bits, dtype=jnp.uint32)[None]

    everywhere = PartitionSpec(mesh.axis_names)
    return jax.shard_map(here, mesh=mesh, in_specs=spec, out_specs=everywhere, check_vma=False)(leaf)


@partial(jax.jit, static_argnames="everywhere")
def _known_to_all(digests: list[jax.Array], everywhere: NamedSharding) -> jax.Array:
    return jax.lax.with_sharding_constraint(jnp.stack(digests), everywhere)


def _suspects(digests: np.ndarray, parts: tuple[str, ...], mesh: Mesh) -> list[str]:
    """The devices whose number is not that of most copies; all with a copy where there is no such number."""
    if len(set(zip(parts, digests.tolist(), strict=True))) == len(set(parts)):
        return []
    copies: dict[str, list[tuple[int, Any]]] = {}
    for part, number, device in zip(parts, digests.tolist(), mesh.devices.flat, strict=True):
        copies.setdefault(part, []).append((number, device))
    found = []
    for of_one in copies.values():
        (usual, most), *others = Counter(number for number, _ in of_one).most_common(2)
        if others:
            tied = others[0][1] == most
            found += [f"{device} of process {device.process_index}" for n, device in of_one if tied or n != usual]
    return found
