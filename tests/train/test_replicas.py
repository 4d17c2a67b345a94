"""Copies of a state on several devices that are no copies any more."""

import jax
import numpy as np
import pytest
from helpers import flipped, make_batch, parts

from bertjax.train.mesh import MeshConfig, path_of
from bertjax.train.replicas import Corrupted, check_replicas, differing

MESHES = {
    "data": MeshConfig(data=8),
    "fsdp": MeshConfig(data=4, fsdp=2),
    "all": MeshConfig(data=2, fsdp=2, tensor=2),
    "seq": MeshConfig(data=2, seq=4),
}


@pytest.fixture(scope="module", params=MESHES)
def run(request):
    return parts(mesh=MESHES[request.param])


def copies(leaf, device):
    """The devices that have the same part of an array as this one, itself among them."""
    index = {shard.device: str(shard.index) for shard in leaf.addressable_shards}
    return {other for other, at in index.items() if at == index[device]}


def test_every_bit_that_flips_in_one_copy_is_seen(run):
    state, rng = run.state, np.random.default_rng(0)
    state, _ = run.train([make_batch(number) for number in range(3)])
    assert differing(state, run.mesh) == {}
    leaves = {path_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state)}
    for _ in range(20):
        device = run.mesh.devices.reshape(-1)[rng.integers(8)]
        name = rng.choice([name for name, leaf in leaves.items() if len(copies(leaf, device)) > 1])
        same = copies(leaves[name], device)
        found = differing(flipped(state, name, device, int(rng.integers(2**40))), run.mesh)
        suspects = same if len(same) == 2 else {device}
        assert {name: set(devices) for name, devices in found.items()} == {
            name: {f"{suspect} of process 0" for suspect in suspects}
        }


def test_the_message_names_array_and_device(run):
    state = run.state
    check_replicas(state, run.mesh, 7)
    device = run.mesh.devices.reshape(-1)[3]
    for name in ("params/pooler/bias", "key"):
        state = flipped(state, name, device, 5)
    with pytest.raises(
        Corrupted, match=r"after step 7 devices hold different copies of params/pooler/bias and 1 other"
    ) as told:
        check_replicas(state, run.mesh, 7)
    assert str(device) in str(told.value) and told.value.code == 42
