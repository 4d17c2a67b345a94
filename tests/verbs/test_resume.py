"""The promise: a run that was stopped and taken up again is, to the last bit, the run left alone."""

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import flipped, logged
from jax.sharding import SingleDeviceSharding

from bertjax import api, cli, pretraining, run, saved
from bertjax.config import Finetune
from bertjax.contracts import Compute
from bertjax.data.masking import Masking
from bertjax.errors import DataError
from bertjax.objectives import mlm
from bertjax.recipe import load_recipe
from bertjax.saved import open_run
from bertjax.train.checkpoint import Checkpoints
from bertjax.train.log import read_metrics
from bertjax.train.loop import mean_metrics
from bertjax.train.mesh import MeshConfig, make_mesh
from bertjax.train.replicas import Corrupted
from bertjax.train.stop import Interrupted

ONE = MeshConfig(data=1)


def exactly(folder):
    """Every logged figure as its float bits; the lines of one step in their order."""
    return [
        {name: value.hex() if isinstance(value, float) else value for name, value in line.items()}
        for line in logged(folder)
    ]


def arrays(tree):
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def same_bits(a, b):
    a, b = arrays(a), arrays(b)
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype and a[name].tobytes() == b[name].tobytes(), name


@pytest.fixture
def stop_at(on_step, terminate, monkeypatch):
    """stop_at(number, verb, config): the run, sent SIGTERM in its number-th step."""

    def stop(number, verb, config):
        on_step(number, terminate)
        with pytest.raises(Interrupted, match=rf"SIGTERM: stopped after step {number} and saved it"):
            verb(config)
        monkeypatch.undo()
        assert Checkpoints(Path(config.out)).latest == number

    return stop


def equal_runs(one, two):
    """Same figures in every line, same state at the end, same best checkpoint."""
    assert exactly(one) == exactly(two)
    first, second = Checkpoints(one), Checkpoints(two)
    assert (first.latest, first.best) == (second.latest, second.best)
    assert first.extra(first.latest)["loader"] == second.extra(second.latest)["loader"]
    same_bits(*(checkpoints._restore(checkpoints.latest, items(checkpoints)) for checkpoints in (first, second)))


def items(checkpoints):
    """All arrays of a checkpoint: parameters and the rest of the state."""
    import orbax.checkpoint as ocp
    from etils import epath

    folder = epath.Path(checkpoints.run).absolute() / "checkpoints" / str(checkpoints.latest)
    names = [*checkpoints.parts(checkpoints.latest), "train"]
    trees = {name: ocp.StandardCheckpointHandler().metadata(folder / name).tree for name in names}
    device = SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), trees)


def test_the_run_reaches_its_second_epoch_and_logs_every_step(pretrained, tiny):
    lines = [line for line in exactly(pretrained) if line["split"] == "train"]
    assert [line["step"] for line in lines] == list(range(1, tiny.steps + 1))
    ((epoch, *_),) = Checkpoints(pretrained).extra(tiny.steps)["loader"]
    assert epoch >= 1 and tiny.micro_batches == 2 and tiny.model.dropout and tiny.model.attention_dropout


def test_a_run_begun_anew_is_the_same(pretrained, tiny, tmp_path):
    run.pretrain(replace(tiny, out=str(tmp_path / "run"), workers=1, save_every=100, keep_last=5))
    equal_runs(pretrained, tmp_path / "run")


@pytest.mark.parametrize(
    ("stops", "workers"), [((7,), (0, 0)), pytest.param((4, 13), (0, 2, 1), marks=pytest.mark.late)]
)
def test_stopped_and_resumed_is_the_run_left_alone(stop_at, pretrained, tiny, tmp_path, stops, workers):
    config = replace(tiny, out=str(tmp_path / "run"))
    for stop, count in zip(stops, workers, strict=False):
        stop_at(stop, run.pretrain, replace(config, workers=count))
    run.pretrain(replace(config, workers=workers[-1]))
    equal_runs(pretrained, tmp_path / "run")


@pytest.mark.parametrize("stop", [pytest.param(3, marks=pytest.mark.slow), 4, pytest.param(6, marks=pytest.mark.slow)])
def test_length_phases_are_resumed_in_either_and_between_them(stop_at, phased, tiny, tmp_path, stop):
    config = replace(phased, out=str(tmp_path / "run"))
    stop_at(stop, run.pretrain, config)
    run.pretrain(replace(config, workers=1))
    equal_runs(Path(phased.out), tmp_path / "run")


@pytest.fixture(scope="module")
def phased(tiny, tmp_path_factory):
    """A finished run of 4 steps of 8 x 32 and 3 of 4 x 40."""
    config = replace(tiny, steps=7, later_phases=((0.4, 40, 4),), out=str(tmp_path_factory.mktemp("phased") / "run"))
    assert [phase.steps for phase in config.phases] == [4, 3]
    run.pretrain(config)
    return config


@pytest.mark.slow
def test_packed_rows_and_a_schedule_of_masking_go_on_where_they_stopped(stop_at, tiny, tmp_path):
    objective = mlm.Config(masking=Masking(kind="span", rate=(0.5, 0.1)))
    config = replace(tiny, objective=objective, steps=10, packing=True, eval_every=10)
    stop_at(6, run.pretrain, replace(config, out=str(tmp_path / "stopped")))
    for name, workers in (("stopped", 2), ("alone", 0)):
        run.pretrain(replace(config, out=str(tmp_path / name), workers=workers))
    equal_runs(tmp_path / "alone", tmp_path / "stopped")


def test_resuming_a_finished_run_changes_nothing_and_says_so(pretrained, tiny, tmp_path, capsys):
    copied = shutil.copytree(pretrained, tmp_path / "copied")
    run.pretrain(replace(tiny, out=str(copied)))
    equal_runs(pretrained, copied)
    assert "resumes after step 16 of 16: it is done" in capsys.readouterr().err


def test_another_number_of_cores_is_told(pretrained, tiny, tmp_path, monkeypatch, capsys):
    copied = shutil.copytree(pretrained, tmp_path / "copied")
    was = saved.cores()
    monkeypatch.setattr(saved, "cores", lambda: was + 1)
    run.pretrain(replace(tiny, out=str(copied)))
    told = f"device: was cpu of {was} cores, now cpu of {was + 1} cores: results may differ in their rounding"
    assert told in " ".join(capsys.readouterr().err.split())


def test_more_micro_batches_change_neither_dropout_nor_evaluation(stop_at, pretrained, tiny, tmp_path, capsys):
    config = replace(tiny, out=str(tmp_path / "run"))
    stop_at(7, run.pretrain, config)
    run.pretrain(replace(config, micro_batches=4))
    told = " ".join(capsys.readouterr().err.split())
    assert "micro_batches: was 2, now 4: results are the same up to rounding" in told
    alone, cut = logged(pretrained), logged(tmp_path / "run")
    assert [(line["step"], line["split"]) for line in cut] == [(line["step"], line["split"]) for line in alone]
    np.testing.assert_allclose([line["loss"] for line in cut], [line["loss"] for line in alone], rtol=1e-5)


@pytest.mark.late
def test_another_mesh_keeps_the_order_of_the_data_and_the_losses(stop_at, tiny, tmp_path):
    config = replace(tiny, batch_size=16, model=replace(tiny.model, dropout=0.0, attention_dropout=0.0), steps=6)
    wide = replace(config, mesh=MeshConfig(data=8))
    run.pretrain(replace(wide, out=str(tmp_path / "alone")))
    stop_at(4, run.pretrain, replace(wide, out=str(tmp_path / "moved")))
    run.pretrain(replace(config, mesh=MeshConfig(data=2, fsdp=2, tensor=2), out=str(tmp_path / "moved")))
    alone, moved = logged(tmp_path / "alone"), logged(tmp_path / "moved")
    assert [line["step"] for line in alone] == [line["step"] for line in moved]
    for one, two in zip(alone, moved, strict=True):
        np.testing.assert_allclose(two["loss"], one["loss"], rtol=1e-6)
    extras = [Checkpoints(tmp_path / name).extra(6) for name in ("alone", "moved")]
    assert extras[0]["loader"] == extras[1]["loader"]


@pytest.mark.late
def test_a_vocabulary_that_a_mesh_cuts_in_equal_parts(stop_at, finetuned, home, tiny, tmp_path):
    mesh = MeshConfig(1, 2, tensor=2)
    config = replace(tiny, mesh=mesh, steps=6, out=str(tmp_path / "alone"))
    run.pretrain(config)
    stop_at(4, run.pretrain, replace(config, out=str(tmp_path / "run")))
    run.pretrain(replace(config, out=str(tmp_path / "run")))
    equal_runs(tmp_path / "alone", tmp_path / "run")
    stored = open_run(tmp_path / "run")
    words = stored.tokenizer.vocab_size
    rows = Compute(mesh=make_mesh(mesh)).padded_vocab_size(words)
    for on, there in ((ONE, words), (mesh, rows)):
        assert stored.params(stored.objective(), make_mesh(on))["mlm"]["bias"].shape == (there,)
    assert rows > words
    tuned = replace(open_run(finetuned).config, mesh=mesh, out=str(tmp_path / "tuned"))
    run.finetune(tuned)
    one, two = (json.loads((path / "scores.json").read_text())["metrics"] for path in (finetuned, tmp_path / "tuned"))
    assert one == two


@pytest.mark.slow  # tests/verbs/test_kills.py kills more often
def test_a_killed_process_goes_on_from_its_last_save(pretrained, tiny, home, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "bertjax", "pretrain", home / "pretrain.py", "--data", *tiny.data, "--out", out]
    with subprocess.Popen([*map(str, command), "--workers", "1"], stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 240
        while process.poll() is None and time.monotonic() < deadline:
            steps = out / "checkpoints"
            if steps.is_dir() and any(entry.name == "5" for entry in steps.iterdir()):
                process.kill()
            time.sleep(0.002)
        process.kill()
        # Ends only when the worker, which holds the other end of the pipe, has gone too.
        errors = process.communicate(timeout=60)[1].decode()
    assert (out / "checkpoints" / "5").is_dir(), errors
    assert process.returncode == -signal.SIGKILL, "it was done before it could be killed"
    run.pretrain(replace(tiny, out=str(out)))
    equal_runs(pretrained, out)


def test_the_best_and_the_last_checkpoints_are_kept(pretrained, tiny):
    steps = sorted(int(entry.name) for entry in (pretrained / "checkpoints").iterdir() if entry.name.isdigit())
    lowest = min((line for line in read_metrics(pretrained) if line["split"] == "dev" and line["step"]), key=lambda line: line["loss"])  # fmt: skip  # noqa: E501
    assert steps == sorted({15, 16, lowest["step"]})
    assert Checkpoints(pretrained).best == lowest["step"]


def test_held_out_text_is_shaped_as_what_is_trained_on(tiny, tmp_path, monkeypatch):
    shapes = []

    def spied(step, state, batches, mesh):
        batches = list(batches)
        shapes.append((int(state.step), *batches[0]["tokens"].shape, len(batches)))
        return mean_metrics(step, state, iter(batches), mesh)

    monkeypatch.setattr(pretraining, "mean_metrics", spied)
    later = {"steps": 6, "later_phases": ((0.5, 40, 4),), "eval_every": 1, "eval_batches": 1}
    run.pretrain(replace(tiny, **later, out=str(tmp_path / "run")))
    # Of 8 rows or 4, in two micro-batches.
    assert shapes == [(step, 4, 32, 2) for step in range(4)] + [(step, 2, 40, 2) for step in range(4, 7)]


def test_a_checkpoint_that_is_not_finite_is_never_written(on_step, tiny, tmp_path):
    config = replace(tiny, out=str(tmp_path / "run"), log_every=100, eval_every=100, save_every=2)
    on_step(5, lambda state: replace(state, params=jax.tree.map(lambda x: x * np.nan, state.params)))
    with pytest.raises(DataError, match="the parameters after step 6 are not finite; lower --optimizer"):
        run.pretrain(config)
    assert Checkpoints(tmp_path / "run").latest == 4
    assert np.isfinite(api.load(tmp_path / "run").embed(["the cat"])).all()


@pytest.mark.late
def test_a_bit_that_flips_on_one_device_is_in_no_checkpoint(on_step, monkeypatch, tiny, tmp_path):
    config = replace(tiny, batch_size=16, mesh=MeshConfig(data=8), steps=6, save_every=2)
    run.pretrain(replace(config, out=str(tmp_path / "alone")))
    on_step(5, lambda state: flipped(state, "params/encoder/embed/tokens/table", jax.devices()[3], 1234))
    with pytest.raises(
        Corrupted, match=r"after step 6 devices hold different copies of .*; at fault is .*3 of process 0"
    ):
        run.pretrain(replace(config, out=str(tmp_path / "flipped")))
    assert Checkpoints(tmp_path / "flipped").latest == 4
    monkeypatch.undo()
    run.pretrain(replace(config, out=str(tmp_path / "flipped")))
    equal_runs(tmp_path / "alone", tmp_path / "flipped")


def test_stopping_from_the_command_line(on_step, terminate, bertjax, tiny, home, tmp_path):
    on_step(3, terminate)
    outcome = bertjax("pretrain", home / "pretrain.py", "--data", *tiny.data, "--out", tmp_path / "run")
    assert outcome.code == 42 and "stopped after step 3 and saved it; the same command goes on" in outcome.err


@pytest.mark.late
def test_fine_tuning_resumed_is_fine_tuning_left_alone(stop_at, finetuned, pretrained, home, tmp_path):
    config = replace(
        load_recipe(str(home / "finetune.py"), Finetune),
        task="sms_spam", source=str(pretrained), data=str(home), out=str(tmp_path / "run"), baseline="tfidf",
    )  # fmt: skip
    stop_at(10, run.finetune, config)
    run.finetune(config)
    equal_runs(finetuned, tmp_path / "run")
    scores = [json.loads((folder / "scores.json").read_text()) for folder in (finetuned, tmp_path / "run")]
    assert scores[0] == scores[1]
    assert cli.run(["evaluate", str(tmp_path / "run"), "--data", str(home)]) == 0
