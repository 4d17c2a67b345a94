"""A mesh is chosen where none is given, by what fits, and the reason is told."""

from dataclasses import replace

import pytest

from bertjax import automesh
from bertjax.automesh import GIB, activations, choose
from bertjax.config import Pretrain
from bertjax.contracts import Compute
from bertjax.models import bert
from bertjax.objectives import mlm
from bertjax.train.mesh import MeshConfig, make_mesh

AUTO = MeshConfig()


@pytest.mark.parametrize(
    ("fixed", "activations", "fsdp", "reason"),
    [
        (2, 10, 1, "take 2.0 GiB, activations about 10.0, a device has 16"),
        (10, 8, 2, "the first are cut over 2"),
        (40, 4, 4, "the first are cut over 4"),
        (300, 4, 32, "the first are cut over 32"),
        (2, 20, 1, "may not fit; see --micro-batches, --remat"),
        (40, 20, 16, "may not fit"),
    ],
)
def test_parameters_are_cut_only_as_finely_as_memory_asks_for(fixed, activations, fsdp, reason):
    found = choose(AUTO, ways=64, fixed=fixed * GIB, activations=activations * GIB, memory=16 * GIB)
    assert found[0] == MeshConfig(fsdp=fsdp) and reason in found[1]


def test_ways_that_are_no_power_of_two():
    assert choose(AUTO, ways=6, fixed=30 * GIB, activations=0, memory=16 * GIB)[0].fsdp == 3


def test_an_unknown_memory_is_not_guessed():
    assert choose(AUTO, ways=8, fixed=90 * GIB, activations=0, memory=0) == (
        MeshConfig(fsdp=1),
        "the memory of a device is not known",
    )


# Bytes a token without the gradient, of `bertjax plan --topology v5e:... --model.dtype bfloat16`, libtpu 0.0.42.1.
@pytest.mark.parametrize(("preset", "measured"), [("tiny", 34_900), ("mini", 57_500), ("base", 296_200)])
def test_activations_are_about_what_the_compiler_keeps(preset, measured):
    model = replace(bert.PRESETS[preset], dtype="bfloat16")
    pretraining = mlm.Config()
    assert 0.85 < pretraining.activation_bytes(model, 128, Compute()) / measured < 1.25
    kept = [pretraining.activation_bytes(model, 128, Compute(remat)) for remat in ("blocks", "dots", "none")]
    assert kept == sorted(kept)
    narrow, wide = (m.activation_bytes(128, 0.0, 1.0, Compute()) for m in (model, replace(model, dtype="float32")))
    assert wide == 2 * narrow


# As above, --preset base --model.layers 2 --length 512 --quick on v5e:2x2.
@pytest.mark.parametrize(
    ("mesh", "remat", "measured"),
    [
        (MeshConfig(4), "none", 81_100),
        (MeshConfig(2, 2), "none", 61_500),
        (MeshConfig(1, tensor=4), "none", 21_400),
        (MeshConfig(1, tensor=4), "dots", 17_900),
        (MeshConfig(1, tensor=4), "blocks", 18_500),
        (MeshConfig(1, tensor=2), "none", 33_800),
        (MeshConfig(1, fsdp=2, tensor=2), "none", 38_100),
    ],
)
def test_over_tensor_only_heads_hidden_units_and_words_are_cut(mesh, remat, measured):
    model = replace(bert.PRESETS["base"], layers=2, dtype="bfloat16")
    config, mesh = Pretrain(model=model, batch_size=128, length=512), make_mesh(mesh)
    tokens = 128 * 512 / (mesh.shape["data"] * mesh.shape["fsdp"])
    found = activations(config, model, config.phases[0], mesh, remat)
    assert 0.85 < found / tokens / measured < 1.25


def test_a_fused_kernel_keeps_no_scores():
    # `bertjax plan` as above, --topology v5p:2x2x1 and 4 layers: 65,536 tokens of a chip keep 7.98 GiB.
    model = replace(bert.PRESETS["base"], layers=4, dtype="bfloat16", attention_dropout=0.0, max_length=4096)
    fused, einsum = (
        mlm.Config().activation_bytes(model, 4096, Compute(attention=kind, mesh=make_mesh(MeshConfig(data=1))))
        for kind in ("splash", "einsum")
    )
    assert 0.7 < 65_536 * fused / (7.98 * GIB) < 1.25
    assert einsum > 3 * fused


OPTIONS = ["--topology", "local", "--model.vocab-size", "99", "--batch-size", "32", "--micro-batches", "1"]


@pytest.fixture
def plan(bertjax, home, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return lambda *options: bertjax("plan", home / "pretrain.py", "--out", tmp_path / "p.json", *OPTIONS, *options)


def test_data_parallel_while_it_fits(plan):
    outcome = plan("--mesh.data", "-1")
    assert "mesh data 8, as none was given: the memory of a device is not known" in outcome.err
    assert "mesh data 8" in outcome.out


def test_cut_where_it_does_not(plan, monkeypatch):
    monkeypatch.setattr(automesh, "_activations", lambda *_: 0)
    monkeypatch.setattr(automesh, "_memory", lambda _: 150e3)  # state and gradient of half a model are about 200e3
    outcome = plan("--mesh.data", "-1", "--mesh.tensor", "2")
    assert "mesh data 2 x fsdp 2 x tensor 2, as none was given" in outcome.err, outcome.err
    assert "mesh data 2 x fsdp 2 x tensor 2" in outcome.out


def test_what_was_given_is_taken(plan, monkeypatch):
    monkeypatch.setattr(automesh, "choose", None)
    assert "mesh fsdp 8" in plan("--mesh.data", "1", "--mesh.fsdp", "8").out
    assert "mesh data 2 x fsdp 4" in plan("--mesh.data", "-1", "--mesh.fsdp", "4").out


@pytest.mark.slow
def test_a_run_and_its_dry_run_say_what_was_chosen(bertjax, home, data, tmp_path):
    options = ["--data", data, "--out", tmp_path / "run", "--mesh.data", "-1", "--batch-size", "16", "--steps", "1"]
    for more in (["--dry-run"], []):
        outcome = bertjax("pretrain", home / "pretrain.py", *options, *more)
        assert outcome.code == 0 and "mesh data 8, as none was given" in outcome.err
