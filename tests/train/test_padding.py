"""A vocabulary that no axis divides: cut all the same, trained to the same figures, on the disk as it is."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ONE, TINY, losses, make_batch, parts

from bertjax.contracts import Compute
from bertjax.models import bert
from bertjax.objectives import mlm
from bertjax.train.mesh import MeshConfig, make_mesh, path_of, undivided_in
from bertjax.train.optim import SCALINGS, Optimizer
from bertjax.train.padding import held, resized, stored
from bertjax.train.state import init_state, planned_state, stored_state

CUBE = MeshConfig(2, 2, 2)
ODD = replace(TINY, vocab_size=131)


@pytest.mark.parametrize(
    ("vocab", "mesh", "rows"),
    [
        (30_522, MeshConfig(8), 30_522),
        (30_522, MeshConfig(2, seq=4), 30_522),
        (30_522, MeshConfig(1, 8), 30_592),
        (30_522, CUBE, 30_592),
        (128, CUBE, 128),
        (129, MeshConfig(1, 2), 256),
        (128, MeshConfig(1, 3), 384),
    ],
)
def test_rows_are_whole_tiles_in_equal_parts(vocab, mesh, rows):
    assert Compute(mesh=make_mesh(mesh)).padded_vocab_size(vocab) == rows
    assert Compute().padded_vocab_size(vocab) == vocab


def test_no_device_has_the_table_whole_neither_held_nor_read_nor_written():
    model, mesh = replace(bert.PRESETS["tiny"], type_count=4, max_length=128), make_mesh(CUBE)
    objective, update = mlm.Config().build(model), Optimizer(kind="lamb").build(10)
    on_mesh, on_disk = (of(objective, update, mesh) for of in (planned_state, stored_state))
    assert undivided_in(on_mesh, mesh) == {}
    for tree, rows, part in ((on_mesh, 30_592, (30_592 // 4, 128)), (on_disk, 30_522, (30_522, 128 // 4))):
        moments = tree.opt_state[1]
        for params in (tree.params, moments.mu, moments.nu):
            table = params["encoder"]["embed"]["tokens"]["table"]
            assert table.shape == (rows, 128) and table.sharding.shard_shape(table.shape) == part
            assert params["mlm"]["bias"].shape == (rows,)
    without = stored_state(objective, update, make_mesh(ONE))
    assert jax.tree.map(lambda x: x.shape, on_disk) == jax.tree.map(lambda x: x.shape, without)
    assert planned_state(objective, update, make_mesh(ONE)) == without


def test_there_and_back_are_the_same_bits():
    objective, update = mlm.Config().build(ODD), Optimizer().build(10)
    mesh = make_mesh(CUBE)
    like, disk = (of(objective, update, mesh) for of in (planned_state, stored_state))
    first, alone = (init_state(objective, update, seed=3, mesh=m) for m in (mesh, make_mesh(ONE)))
    written = resized(first, disk)
    jax.tree.map(np.testing.assert_array_equal, written, alone)
    for tree, to in ((written, disk), (resized(written, like), like)):
        assert jax.tree.map(lambda x: x.sharding, tree) == jax.tree.map(lambda x: x.sharding, to)
    jax.tree.map(np.testing.assert_array_equal, resized(written, like), first)
    again = init_state(objective, update, seed=4, mesh=mesh, trained={"encoder": first.params["encoder"]})
    table = again.params["encoder"]["embed"]["tokens"]["table"]
    assert table is first.params["encoder"]["embed"]["tokens"]["table"]


@pytest.mark.parametrize(
    "kind", [kind if kind == "lamb" else pytest.param(kind, marks=pytest.mark.slow) for kind in SCALINGS]
)
def test_training_is_the_same_and_rows_that_are_no_words_stay_zeros(kind):
    update = Optimizer(kind=kind, peak_lr=1e-3, warmup=2, weight_decay=0.1).build(20)
    batches = [make_batch(seed, vocab=131) for seed in range(6)]
    (one, told), (many, told_too) = (parts(ODD, mesh, update=update).train(batches) for mesh in (ONE, CUBE))
    np.testing.assert_allclose(losses(told_too), losses(told), rtol=1e-6)
    for (path, x), want in zip(jax.tree_util.tree_leaves_with_path(many), jax.tree.leaves(one), strict=True):
        x, want = np.asarray(x), np.asarray(want)
        rest = x[want.shape[0] :] if x.ndim else np.zeros(0)
        assert not rest.any(), path_of(path)
        assert (rest.size > 0) == path_of(path).endswith(("embed/tokens/table", "mlm/bias")), path_of(path)
    table = many.params["encoder"]["embed"]["tokens"]["table"][:131]
    np.testing.assert_allclose(table, one.params["encoder"]["embed"]["tokens"]["table"], atol=2e-5)


def test_rows_that_are_no_words_have_no_chance():
    made = parts(ODD, CUBE)
    params = jax.tree.map(np.array, made.initial.params)
    params["encoder"]["embed"]["tokens"]["table"][131:] = 100.0  # whatever stands there
    params, batch = jax.tree.map(jnp.asarray, (params, make_batch(vocab=131)))
    logits = made.objective.apply({"params": params}, batch, method="fill")
    assert logits.shape == (16, 4, 131)
    found = made.objective.apply({"params": params}, batch, train=False)
    chances = jax.nn.log_softmax(logits)
    right = np.take_along_axis(chances, batch["masked_targets"][..., None], -1)[..., 0]
    np.testing.assert_allclose(found["mlm_loss"][0], -(right * batch["masked_weights"]).sum(), rtol=1e-5)


def test_any_tree_of_parameters_has_both_forms():
    mesh = make_mesh(MeshConfig(1, 8))
    shapes = {"encoder": {"embed": {"tokens": {"table": jax.ShapeDtypeStruct((30, 12), np.float32)}}}}
    (on_mesh,), (on_disk,) = jax.tree.leaves(held(shapes, mesh)), jax.tree.leaves(stored(shapes, mesh))
    assert on_mesh.sharding.shard_shape(on_mesh.shape) == (16, 12)
    assert on_disk.shape == (30, 12) and on_disk.sharding.is_fully_replicated  # 12 columns are no multiple of 8
