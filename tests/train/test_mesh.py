"""One program on any mesh: same losses, a rule for every array, no array gathered behind our back."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from functools import cache

import jax
import numpy as np
import pytest
from helpers import DROPOUT, KEEP, ONE, TINY, losses, make_batch, parts
from jax.sharding import PartitionSpec as P

from bertjax import registry
from bertjax.contracts import Compute
from bertjax.errors import ConfigError
from bertjax.objectives import mlm, supervised
from bertjax.train.mesh import (
    AXES,
    RULES,
    MeshConfig,
    abstract_batch,
    batch_sharding,
    check_batch,
    idle,
    local_rows,
    make_mesh,
    path_of,
    put_batch,
    spec_for,
    undivided,
)
from bertjax.train.optim import SCALINGS, Optimizer
from bertjax.train.padding import held
from bertjax.train.state import init_state, planned_state
from bertjax.train.step import make_train_step

CUBE = MeshConfig(2, 2, 2)
MODELS = {"plain": replace(TINY, layers=1), "dropout": replace(DROPOUT, layers=1)}  # compilation is slow
MESHES = {
    "data": MeshConfig(8),
    "fsdp": MeshConfig(1, 8),
    "seq": MeshConfig(1, seq=8),
    "data fsdp tensor": CUBE,
    "data fsdp seq": MeshConfig(2, 2, seq=2),
    "data seq tensor": MeshConfig(2, seq=2, tensor=2),
    "fsdp seq tensor": MeshConfig(1, 2, seq=2, tensor=2),
    "dcn fsdp seq": MeshConfig(1, 2, seq=2, dcn=2),
}
RARE = ("fsdp", "seq", "data fsdp seq", "data seq tensor")  # the others have all of their axes


def ten_losses(model, mesh, **options):
    return losses(parts(model, mesh, **options).train(make_batch(seed) for seed in range(10))[1])


@pytest.fixture(scope="module")
def on_one_device():
    return {name: ten_losses(model, ONE) for name, model in MODELS.items()}


@pytest.mark.parametrize(
    "mesh", [pytest.param(name, marks=pytest.mark.slow) if name in RARE else name for name in MESHES]
)
def test_losses_do_not_depend_on_the_mesh(mesh, on_one_device):
    np.testing.assert_allclose(ten_losses(MODELS["dropout"], MESHES[mesh]), on_one_device["dropout"], rtol=1e-6)


@pytest.mark.parametrize("mesh", ["fsdp seq tensor", "data"])
def test_nor_on_how_the_batch_is_cut_besides(mesh, on_one_device):
    cut = ten_losses(MODELS["dropout"], MESHES[mesh], micro_batches=2)
    np.testing.assert_allclose(cut, on_one_device["dropout"], rtol=1e-6)


@pytest.fixture(scope="module")
def gradient():
    """gradient(mesh) of a vocabulary that no axis divides."""
    model, batch = replace(TINY, layers=1, vocab_size=130), make_batch(rows=8, vocab=130)

    @cache
    def of(mesh):
        kept = parts(model, mesh, update=KEEP).train([batch])[0].opt_state
        return {path_of(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(kept)}

    return of


@pytest.mark.parametrize("mesh", [CUBE, MeshConfig(1, 2, tensor=2, dcn=2), MeshConfig(1, 2, 2, 2), MeshConfig(1, 2, 4)])
def test_gradients_do_not_depend_on_the_mesh(mesh, gradient):
    norm = np.sqrt(sum(np.square(x).sum() for x in gradient(ONE).values()))
    for name, x in gradient(mesh).items():
        want = gradient(ONE)[name]
        np.testing.assert_allclose(x[: len(want)], want, rtol=0, atol=2e-6 * norm, err_msg=name)
        assert not x[len(want) :].any(), name  # rows that are no words


@pytest.mark.parametrize(
    ("mesh", "rows"),
    [
        (MeshConfig(1, seq=8), 128),
        (MeshConfig(1, seq=4, tensor=2), 128),
        (MeshConfig(1, 2, 2, 2), 128),
        (MeshConfig(1, 2, 2, 2), 16),  # few places: the table is not put together
        (MeshConfig(1, seq=8), 1),  # they share the places of a row
        (MeshConfig(2, seq=4), 2),
    ],
)
def test_devices_that_share_rows_compute_no_logits_twice(mesh, rows, capfd):
    """Of a model whose head is nearly all of its work."""
    model = replace(TINY, layers=1, vocab_size=2_048, max_length=128)

    def flops(config):
        mesh, update = make_mesh(config), KEEP  # each device has an optimizer of its own, which is not looked at here
        objective = mlm.Config().build(model).using(Compute(mesh=mesh))
        batch = abstract_batch(make_batch(length=128, slots=63), rows, mesh)
        program = make_train_step(objective, update, mesh).lower(planned_state(objective, update, mesh), batch)
        return program.compile().cost_analysis()["flops"]

    assert 8 * flops(mesh) < 1.2 * flops(ONE)
    assert "rematerialization" not in capfd.readouterr().err  # XLA's warning of an array that each device makes whole


@pytest.mark.parametrize("slots", [4, 12])
def test_a_row_for_eight_devices(slots):
    """Then each of them has a part of it, to the end: of its places too, where there are enough."""
    batches = [make_batch(seed, rows=2, slots=slots) for seed in range(3)]
    one, many = (losses(parts(MODELS["dropout"], mesh).train(batches)[1]) for mesh in (ONE, MeshConfig(1, seq=8)))
    np.testing.assert_allclose(many, one, rtol=1e-6)


def test_first_state_does_not_depend_on_the_mesh():
    objective, update = mlm.Config().build(TINY), Optimizer().build(10)
    one, many = (init_state(objective, update, seed=1, mesh=make_mesh(mesh)) for mesh in (ONE, CUBE))
    like = planned_state(objective, update, make_mesh(CUBE))
    assert jax.tree.map(lambda x: x.sharding, many) == jax.tree.map(lambda x: x.sharding, like)
    jax.tree.map(np.testing.assert_array_equal, one, many)


@pytest.fixture(scope="module")
def paths():
    """Of every array in the training state of every family, objective and optimizer."""
    found = set()
    for family in registry.names("models"):
        config = replace(registry.find("models", family).Config(), layers=2)
        pretraining = mlm.Config(examples="nsp" if config.type_count > 1 else "full-sentences")
        for objective in (pretraining, supervised.Config(classes=3), supervised.Config(classes=0)):
            for kind in SCALINGS:
                state = planned_state(objective.build(config), Optimizer(kind=kind).build(10), make_mesh(CUBE))
                found |= {path_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)}
    return found


def test_exactly_one_rule_for_every_array(paths):
    assert {"step", "key", "params/encoder/layer_1/attn/out/kernel", "opt_state/1/mu/mlm/bias"} <= paths
    for path in paths:
        matching = [pattern for pattern, _ in RULES if re.search(pattern, path)]
        assert len(matching) == 1, (path, matching)


def test_every_rule_is_used(paths):
    for pattern, _ in RULES:
        assert any(re.search(pattern, path) for path in paths), pattern


def test_moments_lie_where_their_parameters_lie():
    state = planned_state(mlm.Config().build(TINY), Optimizer().build(10), make_mesh(CUBE))
    where = jax.tree.map(lambda x: x.sharding, state)
    assert where.opt_state[1].mu == where.opt_state[1].nu == where.params
    large = [x for x in jax.tree.leaves(where.params) if not x.is_fully_replicated]
    assert len(large) > 20  # kernels, their biases and tables


def test_an_array_without_a_rule_is_an_error():
    with pytest.raises(ConfigError, match=r"no sharding rule matches the array 'encoder/new/kernel' .*RULES"):
        held({"encoder": {"new": {"kernel": np.ones((2, 2))}}}, make_mesh(CUBE))


@pytest.mark.parametrize(
    ("path", "shape", "spec"),
    [
        ("encoder/embed/tokens/table", (128, 32), P(("tensor", "fsdp"), None)),
        ("encoder/embed/types/table", (2, 32), P(None, None)),
        ("encoder/layer_0/attn/query/kernel", (32, 2, 16), P(None, "tensor", "fsdp")),
        ("encoder/layer_0/attn/query/kernel", (32, 3, 16), P(None, None, "fsdp")),
        ("encoder/layer_0/attn/query/kernel", (33, 3, 11), P(None, None)),
        ("encoder/layer_0/attn/out/kernel", (2, 16, 32), P("tensor", "fsdp")),
        ("encoder/layer_0/mlp/out/kernel", (64, 32), P("tensor", "fsdp")),
        ("encoder/layer_0/mlp_norm/scale", (32,), P()),
        ("nsp/kernel", (32, 2), P("fsdp")),
    ],
)
def test_axes_that_do_not_divide_are_replicated(path, shape, spec):
    mesh = make_mesh(CUBE)
    got = spec_for(path, shape, mesh)
    assert jax.sharding.NamedSharding(mesh, got).is_equivalent_to(jax.sharding.NamedSharding(mesh, spec), len(shape))
    wanted = next(s for pattern, s in RULES if re.search(pattern, path))
    assert undivided(path, shape, mesh) == (got != wanted)


COMPILE = """
import sys, jax
from dataclasses import replace
jax.config.update("jax_num_cpu_devices", 8)
from helpers import TINY, make_batch
from bertjax.train import mesh
from bertjax.train.mesh import MeshConfig, P, make_mesh
from bertjax.objectives import mlm
from bertjax.train.optim import Optimizer
from bertjax.train.state import planned_state
from bertjax.train.step import make_train_step
if sys.argv[1] == "both axes":
    mesh.RULES = ((r"embed/tokens/table$", P("tensor", "fsdp")), *mesh.RULES)
cube = make_mesh(MeshConfig(2, 2, 2))
objective, update = mlm.Config().build(replace(TINY, layers=1)), Optimizer().build(10)
state = planned_state(objective, update, cube)
batch = mesh.abstract_batch(make_batch(), 16, cube)
make_train_step(objective, update, cube).lower(state, batch).compile()
"""


@pytest.mark.parametrize("tables", ["as they are", pytest.param("both axes", marks=pytest.mark.slow)])
def test_xla_gathers_no_array_whole(tables):
    # XLA says it on stderr only; with the table cut on both axes it does, so the test would see it.
    flags = os.environ["XLA_FLAGS"]
    environment = {"PYTHONPATH": ":".join(filter(None, sys.path)), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    done = subprocess.run([sys.executable, "-c", COMPILE, tables], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert ("Involuntary full rematerialization" in done.stderr) == (tables == "both axes"), done.stderr


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (MeshConfig(), (1, 8, 1, 1, 1)),
        (MeshConfig(fsdp=2), (1, 4, 2, 1, 1)),
        (MeshConfig(fsdp=2, tensor=4), (1, 1, 2, 1, 4)),
        (MeshConfig(seq=4), (1, 2, 1, 4, 1)),
        (MeshConfig(dcn=2, fsdp=2), (2, 2, 2, 1, 1)),
        (MeshConfig(data=1), (1, 1, 1, 1, 1)),
        (MeshConfig(data=3), (1, 3, 1, 1, 1)),
    ],
)
def test_make_mesh(config, shape):
    mesh = make_mesh(config)
    assert mesh.devices.shape == shape and mesh.axis_names == AXES


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (MeshConfig(data=16), r"mesh data=16 needs 16 devices, here are 8 \(cpu\); lower"),
        (MeshConfig(fsdp=16), "needs 16 devices, here are 8"),
        (MeshConfig(data=2, fsdp=3, tensor=2), "mesh data=2 fsdp=3 tensor=2 needs 12 devices, here are 8"),
        (MeshConfig(data=2, seq=4, dcn=2), "needs 16 devices, here are 8"),
    ],
)
def test_make_mesh_errors(config, message):
    with pytest.raises(ConfigError, match=message):
        make_mesh(config)


@pytest.mark.parametrize("sizes", [{"data": 0}, {"data": -2}, {"fsdp": -1}, {"tensor": -1}, {"seq": 0}, {"dcn": -1}])
def test_mesh_config_errors(sizes):
    with pytest.raises(ConfigError, match="sizes are at least 1"):
        MeshConfig(**sizes)


@pytest.mark.parametrize(
    ("batch_size", "micro_batches", "nearest"), [(30, 1, "28, 32"), (12, 2, "8, 16"), (3, 4, "16"), (18, 4, "16, 32")]
)
def test_check_batch_errors(batch_size, micro_batches, nearest):
    mesh = make_mesh(CUBE)
    with pytest.raises(ConfigError, match=f"batch_size={batch_size} does not divide .* nearest: {nearest}$"):
        check_batch(batch_size, [32], micro_batches, mesh)
    for size in nearest.split(", "):
        check_batch(int(size), [32], micro_batches, mesh)


def test_rows_must_divide_over_seq():
    mesh = make_mesh(MeshConfig(2, seq=4))
    check_batch(8, [32, 12], 1, mesh)
    with pytest.raises(ConfigError, match=r"length=30 does not divide into seq=4 devices; nearest: 28, 32$"):
        check_batch(8, [32, 30], 1, mesh)


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ((1, 2, 1, 1, 2), "4 of 8 devices have nothing to do: give --mesh.data 4, or leave it out"),
        ((1, 2, 1, 1, 3), "2 of 8 devices have nothing to do: tensor 3 does not divide 8"),
        ((2, 1, 3, 1, 1), "2 of 8 devices have nothing to do: dcn 2 x fsdp 3 does not divide 8"),
        ((1, 1, 1, 1, 3), "5 of 8 devices have nothing to do: give --mesh.data 2, or leave it out"),
    ],
)
def test_sizes_that_leave_devices_over_are_named(sizes, said):
    assert idle(sizes, 8) == said


def test_one_host_has_all_rows():
    assert local_rows(16, make_mesh(CUBE)).tolist() == [*range(16)]


def test_put_batch_cuts_rows_over_data_and_fsdp():
    batch = make_batch()
    placed = put_batch(batch, make_mesh(CUBE))
    for name, value in placed.items():
        assert {shard.data.shape[0] for shard in value.addressable_shards} == {4}
        np.testing.assert_array_equal(value, batch[name])


def test_tokens_are_cut_on_their_length_too():
    placed = put_batch(make_batch(), make_mesh(MeshConfig(2, seq=4)))
    for name, value in placed.items():
        by_length = name in ("tokens", "types", "sequence", "positions")
        assert value.addressable_shards[0].data.shape == (8, 4 if by_length else value.shape[1]), name
        np.testing.assert_array_equal(value, make_batch()[name])


def test_batches_of_every_shape_have_a_rule():
    mesh = make_mesh(MeshConfig(2, seq=4))
    assert batch_sharding("tokens", (8, 5, 32), mesh).spec == P(("dcn", "data", "fsdp"), None, "seq")  # choices
    assert batch_sharding("labels", (8,), mesh).spec == P(("dcn", "data", "fsdp"))
    with pytest.raises(ConfigError, match="rows of 30 tokens do not divide into mesh seq=4"):
        batch_sharding("tags", (8, 30), mesh)
    with pytest.raises(ConfigError, match="no rule says how 'pictures' of a batch is cut"):
        batch_sharding("pictures", (8, 30), mesh)


class Device:
    """As JAX describes one of a TPU."""

    platform, device_kind = "tpu", "TPU v5 lite"

    def __init__(self, number, *, slice_index):
        self.id, self.slice_index, self.process_index, self.core_on_chip = number, slice_index, slice_index, 0
        self.coords = (number % 4 // 2, number % 2, 0)


def slices(count):
    return [Device(number, slice_index=number // 4) for number in range(4 * count)]


def test_slices_are_an_axis_of_their_own():
    mesh = make_mesh(MeshConfig(fsdp=2), slices(2))
    assert dict(mesh.shape) == {"dcn": 2, "data": 2, "fsdp": 2, "seq": 1, "tensor": 1}
    for number in range(2):
        assert {device.slice_index for device in mesh.devices[number].flat} == {number}
    assert make_mesh(MeshConfig(), slices(1)).shape["dcn"] == 1
    assert {device.slice_index for device in make_mesh(MeshConfig(dcn=1, data=4), slices(2)).devices.flat} == {0}
    for few in (MeshConfig(data=1), MeshConfig(data=2), MeshConfig(data=1, tensor=2)):
        mesh = make_mesh(few, slices(2))
        for number in range(2):
            assert {device.slice_index for device in mesh.devices[number].flat} == {number}
    with pytest.raises(ConfigError, match=r"a quarter \.\.\.: 2 of 8 devices .*: dcn 2 x fsdp 3 does not divide 8$"):
        make_mesh(MeshConfig(data=-1, fsdp=3), slices(2))
    gpus = [Device(number, slice_index=number // 4) for number in range(8)]
    for gpu in gpus:
        gpu.platform, gpu.slice_index = "gpu", 0
    mesh = make_mesh(MeshConfig(data=2, dcn=2), gpus)
    assert [[device.id for device in host.flat] for host in mesh.devices] == [[0, 1], [4, 5]]
    with pytest.raises(ConfigError, match=r"dcn=4 over devices in 2 slices; give --mesh.dcn 2"):
        make_mesh(MeshConfig(dcn=4), slices(2))
