"""Options that say how a step is computed: they reach it, and change nothing that a run says."""

from dataclasses import replace

import numpy as np
import pytest

from bertjax import run, session
from bertjax.chips import CHIPS
from bertjax.saved import open_run
from bertjax.train.log import read_metrics
from bertjax.train.mesh import MeshConfig, make_mesh


@pytest.fixture
def stop_after(on_step, terminate):
    """stop_after(number): a run is asked to stop in its number-th step."""
    return lambda number: on_step(number, terminate)


@pytest.fixture
def computed(monkeypatch):
    """The `Compute` of every training step that is made."""
    seen = []
    make = session.make_train_step

    def noting(objective, *arguments, **options):
        seen.append(objective.encoder.compute)
        return make(objective, *arguments, **options)

    monkeypatch.setattr(session, "make_train_step", noting)
    return seen


def same_losses(run, other, rtol=1e-5):
    one, two = ([line["loss"] for line in read_metrics(folder) if "loss" in line] for folder in (run, other))
    np.testing.assert_allclose(two, one, rtol=rtol)


@pytest.mark.slow
def test_a_run_goes_on_with_another_rematerialisation(bertjax, computed, stop_after, pretrained, home, data, tmp_path):
    command = ["pretrain", home / "pretrain.py", "--data", data, "--out", tmp_path / "run"]
    stop_after(5)
    assert bertjax(*command, "--remat", "blocks").code == 42
    done = bertjax(*command, "--remat", "dots", "--profile", "2:3")
    assert done.code == 0 and f"a trace of steps 2 to 3 of this start is in {tmp_path}/run/profile" in done.err
    assert list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))
    assert [compute.remat for compute in computed] == ["blocks", "dots"]
    same_losses(pretrained, tmp_path / "run")


def test_a_dry_run_compiles_what_is_asked_for(bertjax, computed, home, data, tmp_path):
    options = ["--data", data, "--out", tmp_path / "run", "--remat", "dots", "--dry-run"]
    assert bertjax("pretrain", home / "pretrain.py", *options).code == 0
    assert [compute.remat for compute in computed] == ["dots"]


def test_fine_tuning_too(bertjax, computed, finetuned, pretrained, home, tmp_path):
    options = ["--task", "sms_spam", "--from", pretrained, "--data", home, "--out", tmp_path / "run"]
    assert bertjax("finetune", home / "finetune.py", *options, "--remat", "blocks").code == 0
    assert [compute.remat for compute in computed] == ["blocks"]
    same_losses(finetuned, tmp_path / "run", rtol=1e-4)


def test_work_is_that_of_the_real_tokens(pretrained, tiny, monkeypatch, tmp_path):
    lines = [line for line in read_metrics(pretrained) if line["split"] == "train"]
    work = tiny.objective.flops_per_token(open_run(pretrained).model, 32)
    for line in lines:  # a CPU has no peak in the table
        assert line["gflops_per_second"] == pytest.approx(line["tokens_per_second"] * work / 1e9, rel=1e-2)  # rounded
    monkeypatch.setattr(session, "chip_of", lambda kind: CHIPS["v5e"])
    run.pretrain(replace(tiny, out=str(tmp_path / "run"), steps=2, mesh=MeshConfig(data=4)))
    line = next(line for line in read_metrics(tmp_path / "run") if line["split"] == "train")
    assert 0 <= line["mfu"] < 1 and "gflops_per_second" not in line
    assert session._peak_flops(make_mesh(MeshConfig(data=4))) == 4 * 197e12


@pytest.mark.slow
def test_a_run_goes_on_with_another_way_to_attend(bertjax, computed, stop_after, home, data, tmp_path):
    command = ["pretrain", home / "pretrain.py", "--data", data, "--steps", "4", "--eval-every", "4"]
    # The splash kernel takes multiples of 128 and drops no probabilities; on a CPU it is interpreted.
    command += ["--model.max-length", "128", "--length", "128", "--model.attention-dropout", "0"]
    assert bertjax(*command, "--out", tmp_path / "plain").code == 0
    stop_after(2)
    assert bertjax(*command, "--out", tmp_path / "run", "--attention", "splash").code == 42
    assert bertjax(*command, "--out", tmp_path / "run", "--attention", "einsum").code == 0
    assert [compute.attention for compute in computed] == ["auto", "splash", "einsum"]
    same_losses(tmp_path / "plain", tmp_path / "run")


def test_fine_tuning_attends_as_it_is_told(bertjax, pretrained, home, tmp_path):
    options = ["--task", "sms_spam", "--from", pretrained, "--data", home, "--out", tmp_path / "run"]
    told = bertjax("finetune", home / "finetune.py", *options, "--attention", "cudnn")
    assert told.code == 2 and "attention=cudnn: needs an NVIDIA GPU" in told.err
