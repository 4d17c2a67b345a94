"""Checkpoints: what was saved comes back bit for bit, whole or in part, on any mesh, or a message says why not."""

import json
import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import ONE, TINY, abstract_state, make_batch, parts

from bertjax.errors import DataError
from bertjax.objectives import mlm
from bertjax.train import manifest
from bertjax.train.checkpoint import Checkpoints, arrays
from bertjax.train.mesh import MeshConfig, make_mesh, put_batch
from bertjax.train.optim import Optimizer
from bertjax.train.saver import Saver, tidy
from bertjax.train.state import planned_state
from bertjax.train.steps import steps_of

MODEL = replace(TINY, layers=1)
CUBE = MeshConfig(2, 2, 2)


@pytest.fixture(scope="module")
def run():
    return parts(MODEL)


@pytest.fixture(scope="module")
def trained(run):
    """A state after two steps: moments and all are not zero."""
    return jax.tree.map(np.array, run.train([make_batch(0), make_batch(1)])[0])


def at(state, step, mesh=ONE):
    """The state on a mesh, as if it were that of another step."""
    planned = planned_state(mlm.Config().build(MODEL), Optimizer().build(10), make_mesh(mesh))
    state = replace(state, step=np.int32(step))
    return jax.device_put(jax.tree.map(np.copy, state), jax.tree.map(lambda x: x.sharding, planned))


def save(folder, states, *, losses=None, keep_last=9, best="-loss", **options):
    saver = Saver(folder, keep_last=keep_last, best=best, constant={"config": {"a": 1}}, **options)
    for number, state in enumerate(states):
        figures = losses[number] if losses else None
        saver.save(
            state, loader=[(0, 1, 2)], log={"window": {"x": [1.5, 2.0]}}, figures=figures and {best.strip("-"): figures}
        )
    saver.wait()
    saver.close()
    return Checkpoints(folder)


@pytest.fixture(scope="module")
def saved(tmp_path_factory, trained):
    return save(tmp_path_factory.mktemp("run"), [at(trained, 2)])


def equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def like(model, mesh=ONE):
    return planned_state(mlm.Config().build(model), Optimizer().build(10), make_mesh(mesh))


def test_everything_comes_back_bit_for_bit(saved, trained):
    assert saved.latest == saved.best == 2
    equal(saved.state(2, like(MODEL)), trained)
    expected = {"config": {"a": 1}, "loader": [[0, 1, 2]], "window": {"x": [1.5, 2.0]}, "figures": {}}
    assert saved.extra(2) == {**expected, "leader": []}


def test_the_leader_is_the_first_step_with_the_best_score(tmp_path, trained):
    states = [at(trained, step) for step in (2, 3, 4, 5)]
    checkpoints = save(tmp_path, states, losses=[0.5, 0.7, 0.7, 0.6], best="f1")
    leaders = [checkpoints.extra(step)["leader"] for step in (2, 3, 4, 5)]
    assert leaders == [[2, 0, 0.5], [3, 0, 0.7], [3, 0, 0.7], [3, 0, 0.7]]
    saver = Saver(tmp_path, keep_last=9, best="f1", constant={}, leader=[3, 0, 0.7])
    assert saver.leader == (3, 0, 0.7)
    saver.close()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_never_the_best(tmp_path, trained, bad):
    states = [at(trained, step) for step in (1, 2, 3, 4)]
    checkpoints = save(tmp_path, states, losses=[2.0, 1.0, bad, 3.0], keep_last=1)
    assert checkpoints.best == 2 and steps_of(tmp_path) == [2, 4]
    assert checkpoints.extra(4)["leader"] == [2, 0, -1.0]


def test_the_leader_is_of_the_last_phase(tmp_path, trained):
    states = [at(trained, step) for step in (2, 3, 4, 5)]
    checkpoints = save(tmp_path, states, losses=[0.2, 0.4, 0.3, 0.5], keep_last=1, phase_of=lambda step: int(step > 2))
    assert [checkpoints.extra(step)["leader"] for step in steps_of(tmp_path)] == [[4, 1, -0.3]] * 2
    assert steps_of(tmp_path) == [4, 5] and checkpoints.best == 4


def test_encoder_alone(saved, trained):
    assert saved.parts(2) == ["encoder", "mlm", "nsp", "pooler"]
    restored = saved.params(2, {"encoder": like(MODEL).params["encoder"]})
    assert set(restored) == {"encoder"}
    equal(restored["encoder"], trained.params["encoder"])


@pytest.mark.parametrize(("before", "after"), [(ONE, CUBE), (CUBE, ONE)], ids=["more", "fewer"])
def test_restored_on_another_mesh(tmp_path, trained, before, after):
    checkpoints = save(tmp_path, [at(trained, 2, before)])
    wanted = like(MODEL, after)
    restored = checkpoints.state(2, wanted)
    equal(restored, trained)
    assert jax.tree.map(lambda x: x.sharding, restored) == jax.tree.map(lambda x: x.sharding, wanted)


def test_the_best_and_the_last_are_kept(tmp_path, trained):
    losses = [3.0, 1.0, None, 2.0, 2.5, None]
    checkpoints = save(tmp_path, [at(trained, s) for s in range(1, 7)], losses=losses, keep_last=2)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["2", "5", "6"]
    assert (checkpoints.latest, checkpoints.best) == (6, 2)
    assert checkpoints.extra(2)["figures"] == {"loss": 1.0}


def test_the_best_may_be_the_highest(tmp_path, trained):
    checkpoints = save(tmp_path, [at(trained, s) for s in (1, 2, 3)], losses=[0.5, 0.9, 0.7], best="f1", keep_last=1)
    assert (checkpoints.latest, checkpoints.best) == (3, 2)


def test_a_resumed_saver_remembers_the_best(tmp_path, trained):
    save(tmp_path, [at(trained, 1)], losses=[1.0], keep_last=1)
    checkpoints = save(tmp_path, [at(trained, s) for s in (2, 3)], losses=[2.0, 3.0], keep_last=1)
    assert (checkpoints.latest, checkpoints.best) == (3, 1)


TABLE = "encoder/embed/tokens/table: checkpoint float32[128, 32], this model float32"


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"vocab_size": 120}, [TABLE + "[120, 32]", "mlm/bias: checkpoint float32[128], this model float32[120]"]),
        ({"layers": 2}, ["encoder/layer_1/attn/key/bias: missing", "encoder/layer_1/mlp_norm/scale: missing"]),
        ({"width": 64}, [TABLE + "[128, 64]", "encoder/layer_0/attn/out/bias: checkpoint", "\n  and "]),
    ],
)
def test_every_mismatch_is_reported_at_once(saved, change, wrong):
    wanted = like(replace(MODEL, **change))
    for restore in (lambda: saved.state(2, wanted), lambda: saved.params(2, wanted.params)):
        with pytest.raises(DataError, match="does not fit this model") as caught:
            restore()
        assert all(line in str(caught.value) for line in wrong), caught.value
        assert "tokenizer, model and optimizer options" in str(caught.value)


def test_fewer_layers_and_other_heads_do_not_fit(tmp_path, saved, trained):
    two = {"encoder": {**trained.params["encoder"], "layer_1": trained.params["encoder"]["layer_0"]}}
    params = {**trained.params, **two}
    checkpoints = save(tmp_path, [replace(at(trained, 1), params=jax.tree.map(jnp.asarray, params))])
    with pytest.raises(DataError, match="encoder/layer_1/attn/key/bias: not wanted here"):
        checkpoints.params(1, like(MODEL).params)
    with pytest.raises(DataError, match="classify: not in the checkpoint"):
        saved.params(2, {"encoder": like(MODEL).params["encoder"], "classify": {"bias": np.zeros(2)}})


def test_saving_goes_on_while_the_state_is_given_up(tmp_path, run):
    """Each save is compared with a copy made before the next step took the buffers."""
    saver = Saver(tmp_path, keep_last=100, best="-loss", constant={})
    state, copies = run.state, {}
    for number in range(1, 7):
        state, _ = run.step(state, put_batch(make_batch(number), run.mesh))
        copies[number] = jax.tree.map(jnp.copy, state)
        saver.save(state, loader=[(0, 0, number)], log={}, figures=None)
    saver.wait()
    saver.close()
    checkpoints = Checkpoints(tmp_path)
    for number, copy in copies.items():
        equal(checkpoints.state(number, abstract_state(copy)), copy)
        assert checkpoints.extra(number)["loader"] == [[0, 0, number]]


def test_what_is_no_fault_of_its_files_is_not_told_as_one(saved, trained, monkeypatch):
    """Where another process is lost while all read, this one has to say that, and to end with another code."""

    def fail(*_, **__):
        raise jax.errors.JaxRuntimeError("UNKNOWN: Gloo AllGather failed: Connection closed by peer")

    monkeypatch.setattr(saved._orbax, "restore", fail)
    with pytest.raises(jax.errors.JaxRuntimeError, match="closed by peer"):
        saved.state(2, abstract_state(at(trained, 2)))


def test_a_run_without_checkpoints(tmp_path):
    with pytest.raises(DataError, match="holds no checkpoints/ folder: give the --out folder"):
        Checkpoints(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(DataError, match="holds no finished checkpoint"):
        Checkpoints(tmp_path)


def test_a_save_cut_off_is_no_checkpoint(tmp_path, saved):
    shutil.copytree(saved.run, tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints"
    shutil.copytree(folder / "2", folder / "3.orbax-checkpoint-tmp")
    assert Checkpoints(tmp_path / "run").latest == 2


@pytest.mark.parametrize("kept", [set(), {"_METADATA", "manifest.ocdbt"}], ids=["empty", "no data"])
@pytest.mark.parametrize("part", ["encoder", "train", "extra"])
def test_a_damaged_checkpoint_is_named(tmp_path, saved, part, kept):
    shutil.copytree(saved.run, tmp_path / "run")
    for file in [p for p in (tmp_path / "run/checkpoints/2" / part).rglob("*") if p.is_file() and p.name not in kept]:
        file.unlink()
    checkpoints = Checkpoints(tmp_path / "run")
    with pytest.raises(DataError, match=r"(?s)checkpoints/2 is damaged:.*\n`bertjax inspect .* --verify`"):
        checkpoints.extra(2) if part == "extra" else checkpoints.state(2, like(MODEL))


def test_the_manifest_is_written_before_the_step_is_finished(tmp_path, trained, monkeypatch):
    write, seen = manifest.write, []

    def watch(folder):
        seen.append((folder.name, sorted(p.name for p in folder.parent.iterdir()), sorted(manifest.parts(folder))))
        write(folder)

    monkeypatch.setattr(manifest, "write", watch)
    checkpoints = save(tmp_path, [at(trained, 1), at(trained, 2)])
    parts = ["encoder", "extra", "mlm", "nsp", "pooler", "train"]
    unfinished = [f"{step}.orbax-checkpoint-tmp" for step in (1, 2)]
    assert seen == [(unfinished[0], unfinished[:1], parts), (unfinished[1], ["1", unfinished[1]], parts)]
    assert checkpoints.latest_good().number == 2
    listed = json.loads((tmp_path / "checkpoints/2/manifest.json").read_text())["files"]
    notes = {"manifest.json", "_CHECKPOINT_METADATA", "commit_success.txt"}
    files = {str(p.relative_to(tmp_path / "checkpoints/2")) for p in (tmp_path / "checkpoints/2").rglob("*")}
    assert listed.keys() == {name for name in files - notes if (tmp_path / "checkpoints/2" / name).is_file()}


def test_one_flipped_bit_is_found_or_does_no_harm(tmp_path, saved, trained):
    shutil.copytree(saved.run, tmp_path / "run")
    folder, rng, found = tmp_path / "run/checkpoints/2", np.random.default_rng(0), 0
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for _ in range(30):
        path = files[rng.integers(len(files))]
        data = path.read_bytes()
        flipped = bytearray(data)
        flipped[rng.integers(len(data))] ^= 1 << rng.integers(8)
        path.write_bytes(flipped)
        try:
            equal(Checkpoints(tmp_path / "run").latest_good().state(like(MODEL)), trained)
        except DataError:
            found += 1
        path.write_bytes(data)
    assert found >= 20
    assert Checkpoints(tmp_path / "run").latest_good().extra == saved.extra(2)


def test_nothing_is_cast_in_silence(saved):
    wanted = like(MODEL)
    half = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16, sharding=x.sharding), wanted.params)
    with pytest.raises(DataError, match=r"norm/bias: checkpoint float32\[32\], this model bfloat16\[32\]"):
        saved.params(2, half)


@pytest.mark.parametrize(
    ("optimizer", "wrong"),
    [
        (Optimizer(kind="lamb"), r"train/opt_state/.*: (missing|not wanted here)"),
        (optax.sgd(0.1), r"train/opt_state/1/mu/encoder/embed/norm/bias: not wanted here"),
    ],
)
def test_another_optimizer_does_not_fit(saved, optimizer, wrong):
    update = optimizer.build(10) if isinstance(optimizer, Optimizer) else optimizer
    wanted = planned_state(mlm.Config().build(MODEL), update, make_mesh(ONE))
    with pytest.raises(DataError, match=wrong):
        saved.state(2, wanted)


def test_what_a_save_left_is_removed_and_what_is_damaged_moved(tmp_path, saved):
    run = tmp_path / "run"
    shutil.copytree(saved.run, run)
    steps = run / "checkpoints"
    for name in ("3", "4", "5", "6.orbax-checkpoint-tmp"):
        shutil.copytree(steps / "2", steps / name)
    (steps / "4" / "metrics").mkdir()
    (steps / "4" / "metrics" / "metrics").write_text("{")  # Orbax would not start
    (run / "damaged" / "5").mkdir(parents=True)
    tidy(run, [5])
    assert sorted(p.name for p in steps.iterdir()) == ["2", "3"]
    assert sorted(p.name for p in (run / "damaged").iterdir()) == ["4", "5"]
    assert (run / "damaged" / "5" / "extra").is_dir()
    tidy(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_arrays():
    tree = {"a": {"b": np.zeros((2, 3), np.float32)}, "c": np.zeros((), np.int32)}
    assert arrays(tree) == {"a/b": "float32[2, 3]", "c": "int32[]"}
