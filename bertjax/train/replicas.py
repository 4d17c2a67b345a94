"""Whether devices that should hold the same numbers do: memory or arithmetic that fails in silence is seen here."""

from functools import partial

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
    digests, cut = {}, {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        spec = leaf.sharding.spec
        over = {axis for axes in spec if axes for axis in ((axes,) if isinstance(axes, str) else axes)}
        if any(mesh.shape[axis] > 1 for axis in mesh.axis_names if axis not in over):
            digests[path_of(path)], cut[path_of(path)] = _digests(leaf, mesh, spec), over
    told = np.asarray(_known_to_all(list(digests.values()), NamedSharding(mesh, PartitionSpec())))
    found = {name: _suspects(numbers, mesh, cut[name]) for name, numbers in zip(digests, told, strict=True)}
    return {name: suspects for name, suspects in found.items() if suspects}


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


def _suspects(digests: np.ndarray, mesh: Mesh, cut: set[str]) -> list[str]:
    """The devices whose number is not that of most copies; all with a copy where there is no such number.

    Of an array that is cut over some axes, devices at the same place along these hold copies of the same part.
    """
    own = [number for number, axis in enumerate(mesh.axis_names) if axis in cut]
    parts = int(np.prod([mesh.devices.shape[number] for number in own], dtype=int))

    def by_part(each: np.ndarray) -> np.ndarray:
        return np.moveaxis(each.reshape(mesh.devices.shape), own, range(len(own))).reshape(parts, -1)

    found = []
    for numbers, devices in zip(by_part(digests), by_part(mesh.devices), strict=True):
        values, counts = np.unique(numbers, return_counts=True)
        if len(values) > 1:
            usual = values[counts == counts.max()]
            wrong = devices[numbers != usual[0]] if len(usual) == 1 else devices
            found += [f"{device} of process {device.process_index}" for device in wrong]
    return found
