"""A mesh is chosen where none is given, by what fits, and the reason is told; so is what may not fit at all."""

import json
import re
import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from bertjax import automesh, memory, scoring, session
from bertjax.automesh import REMATS, Chosen, activations, choose, divisions, shortage
from bertjax.config import Finetune, Pretrain
from bertjax.contracts import Compute, ModelConfig
from bertjax.errors import lacked_memory
from bertjax.memory import GIB
from bertjax.models import bert
from bertjax.objectives import mlm
from bertjax.train.mesh import MeshConfig, bytes_on_device, make_mesh
from bertjax.train.state import planned_state

AUTO = MeshConfig()


@pytest.mark.parametrize(
    ("fixed", "activations", "fsdp", "reason"),
    [
        (2, 10, 1, "take 2.00 GiB, activations about 10.00 GiB, a device has 16.00 GiB"),
        (10, 8, 2, "the first are cut over 2"),
        (40, 4, 4, "the first are cut over 4"),
        (300, 4, 32, "the first are cut over 32"),
        (2, 20, 1, "a device has 16.00 GiB: it may not fit"),
        (40, 20, 16, "the first are cut over 16, which may not be enough"),
    ],
)
def test_parameters_are_cut_only_as_finely_as_memory_asks_for(fixed, activations, fsdp, reason):
    found = choose(AUTO, ways=64, fixed=fixed * GIB, activations=activations * GIB, memory=16 * GIB)
    assert found[0] == MeshConfig(fsdp=fsdp) and reason in found[1]


def test_ways_that_are_no_power_of_two():
    assert choose(AUTO, ways=6, fixed=30 * GIB, activations=0, memory=16 * GIB)[0].fsdp == 3


def test_an_unknown_memory_is_not_guessed():
    assert choose(AUTO, ways=8, fixed=90 * GIB, activations=0, memory=None) == (
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
    found = mlm.Config().activation_bytes(model, 512, Compute(remat, "einsum", make_mesh(mesh)))
    assert 0.85 < found / measured < 1.25


def test_a_fused_kernel_keeps_no_scores():
    # `bertjax plan` as above, --topology v5p:2x2x1 and 4 layers: 65,536 tokens of a chip keep 7.98 GiB.
    model = replace(bert.PRESETS["base"], layers=4, dtype="bfloat16", attention_dropout=0.0, max_length=4096)
    fused, einsum = (
        mlm.Config().activation_bytes(model, 4096, Compute(attention=kind, mesh=make_mesh(MeshConfig(data=1))))
        for kind in ("splash", "einsum")
    )
    assert 0.7 < 65_536 * fused / (7.98 * GIB) < 1.25
    assert einsum > 3 * fused


# MiB of temporaries of one CPU device, as `bertjax plan --topology local` tells them: jax 0.10.
@pytest.mark.parametrize(
    ("preset", "rows", "length", "options", "measured"),
    [
        ("tiny", 256, 128, {}, 1883),
        ("tiny", 256, 512, {}, 8210),
        ("tiny", 256, 128, {"dtype": "bfloat16"}, 1786),
        ("mini", 256, 128, {}, 4560),
        ("mini", 256, 128, {"remat": "dots"}, 4560),
        ("mini", 256, 128, {"remat": "blocks"}, 4358),
        ("mini", 256, 128, {"dtype": "bfloat16"}, 3988),
        ("base", 64, 128, {}, 8870),
        ("base", 64, 128, {"remat": "blocks"}, 8342),
        ("base", 256, 512, {}, 191_524),
    ],
)
def test_cpus_keep_more_whatever_they_are_told(preset, rows, length, options, measured):
    model = replace(bert.PRESETS[preset], dtype=options.get("dtype", "float32"))
    config = Pretrain(model=model, batch_size=rows, length=length)
    found = activations(config, model, config.phases[0], make_mesh(MeshConfig(1)), options.get("remat", "none"))
    assert 0.9 < found / 2**20 / measured < 1.4


def test_a_frozen_encoder_keeps_nothing():
    model, mesh = bert.PRESETS["base"], make_mesh(MeshConfig(1))
    trained, frozen = (
        activations(config, model, automesh.phases(config)[0], mesh, "none")
        for config in (Finetune(), Finetune(frozen=True))
    )
    assert trained == pytest.approx(12 * frozen)


def test_micro_batches_that_all_phases_can_have():
    assert divisions([64, 24], 4, 1) == [1, 2]
    assert divisions([48], 4, 2) == [2, 3, 4, 6, 12]
    assert divisions([4], 4, 2) == []


class Short:
    """A run of two phases on one device, of which the second needs more than there is."""

    config = Pretrain(model=bert.PRESETS["tiny"], steps=100, batch_size=16, later_phases=((0.1, 512, 256),))
    mesh = make_mesh(MeshConfig(1))
    state = planned_state(config.objective.build(config.model), config.optimizer.build(100), mesh)

    def said(self, memory, done=0, **changes):
        config, chosen = replace(self.config, **changes), Chosen(self.mesh, memory and round(memory * GIB), "")
        return shortage(config, config.model, chosen, self.state, [phase.steps for phase in config.phases], done)


def test_a_phase_that_may_not_fit_is_told_before_it_begins():
    said = Short().said(4)
    assert said.startswith("steps 91 to 100, of 256 x 512, may not fit: they take about 9.9"), said
    assert "a device has 4.00 GiB; give --micro-batches 4; `bertjax plan CONFIG.py --topology local`" in said
    kept = activations(Short.config, Short.config.model, Short.config.phases[1], Short.mesh, "none")
    gradient = bytes_on_device(Short.state.params)
    assert kept / 4 + bytes_on_device(Short.state) + 2 * gradient < 0.9 * 4 * GIB < kept / 2


def test_what_fits_is_over_or_not_known_is_not_told():
    assert Short().said(16) == Short().said(None) == Short().said(4, done=100) == Short().said(4, micro_batches=4) == ""
    assert Short().said(4, done=95).startswith("steps 91 to 100, ")
    assert Short().said(0.4).startswith("steps 91 to 100")  # both, of which the larger is told
    first = Short().said(4, batch_size=256, later_phases=((0.1, 512, 16),))
    assert first == "" and Short().said(2, batch_size=256, later_phases=((0.1, 512, 16),)).startswith("steps 1 to 90, ")


def test_a_model_that_does_not_say_what_it_keeps_is_trained_all_the_same():
    class Silent(bert.Config):
        activation_bytes = ModelConfig.activation_bytes

    assert shortage(Short.config, Silent(), Chosen(Short.mesh, 1, ""), Short.state, [90, 10], 0) == ""


def test_where_micro_batches_do_not_help():
    nothing = "no --micro-batches or --remat would do: give smaller batches, or more devices with --mesh.fsdp"
    assert nothing in Short().said(0.04)
    assert nothing in Short().said(4, batch_size=17)  # a CPU keeps the same whatever --remat says


def test_where_the_backward_pass_must_compute_again(monkeypatch):
    kept = dict(zip(REMATS, (10 * GIB, 7 * GIB, 3 * GIB), strict=True))
    monkeypatch.setattr(automesh, "activations", lambda *about: kept[about[-1]])
    assert "; give --remat dots --micro-batches 2;" in Short().said(4.5, batch_size=2)
    assert "; give --remat blocks;" in Short().said(4, batch_size=17)
    assert "; give --micro-batches 4;" in Short().said(4.5, micro_batches=2)


def test_fine_tuning_is_told_too():
    config, model = Finetune(batch_size=64, length=512), bert.PRESETS["tiny"]
    said = shortage(config, model, Chosen(Short.mesh, GIB, ""), Short.state, [30], 0)
    assert said.startswith("steps 1 to 30, of 64 x 512, may not fit"), said
    assert said.endswith("a device has 1.00 GiB; give --micro-batches 2")
    rows = replace(config, batch_size=16)
    assert not shortage(rows, model, Chosen(Short.mesh, GIB, ""), Short.state, [30], 0)
    of_choices = shortage(rows, model, Chosen(Short.mesh, GIB, ""), Short.state, [30], 0, sequences=4)
    assert of_choices == said.replace("64 x 512", "16 x 512")


def test_the_choices_of_a_row_are_counted_where_a_run_starts(bertjax, home, pretrained, tmp_path, monkeypatch):
    rows = [{"premise": "It rained.", "question": "effect", "choice1": "wet", "choice2": "dry", "label": 0}] * 8
    (tmp_path / "COPA").mkdir()
    for split in ("train", "val"):
        (tmp_path / "COPA" / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    asked = []
    monkeypatch.setattr(session, "shortage", lambda *about: asked.append(about[-1]) or "")
    command = [
        "finetune",
        home / "finetune.py",
        "--task",
        "copa",
        "--from",
        pretrained,
        "--data",
        tmp_path,
        "--length",
        "16",
    ]
    outcome = bertjax(*command, "--epochs", "1", "--batch-size", "4", "--out", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert asked == [2]


def test_a_run_says_so_where_it_starts(bertjax, home, data, pretrained, tmp_path, monkeypatch):
    monkeypatch.setattr(session, "fit", lambda run, state, *_, **__: state)
    monkeypatch.setattr(memory, "machine_memory", lambda: 400_000)
    command = ["pretrain", home / "pretrain.py", "--data", data, "--out"]
    outcome = bertjax(*command, tmp_path / "run", "--batch-size", "4", "--later-phases", "0.25", "40", "8")
    assert outcome.code == 0, outcome.err
    (line,) = [line for line in outcome.err.splitlines() if "may not fit" in line]
    assert line.startswith("pretrain: steps 13 to 16, of 8 x 40, may not fit: "), outcome.err
    shutil.copytree(pretrained, tmp_path / "done")
    assert "may not fit" in bertjax(*command, tmp_path / "new").err
    assert "may not fit" not in bertjax(*command, tmp_path / "done").err


def too_much(*_):
    """Fails as XLA does: no address space has so many bytes."""
    return jax.jit(lambda: jnp.zeros(1 << 48, jnp.int8))()


LACKS = "Out of memory allocating 281474976710656 bytes"


def test_where_memory_ends_in_training_is_told_with_the_cure(bertjax, home, data, tmp_path, on_step):
    command = ["pretrain", home / "pretrain.py", "--data", data, "--out", tmp_path / "run"]
    failures = iter([too_much])
    on_step(7, lambda state: next(failures, lambda: state)())
    outcome = bertjax(*command)
    less = "give --micro-batches 4 or --remat dots or smaller batches, or more devices with --mesh.fsdp"
    assert outcome.code == 2 and outcome.err.splitlines()[-1] == f"bertjax pretrain: {LACKS}: {less}", outcome.err
    resumed = bertjax(*command, "--micro-batches", "4")
    assert resumed.code == 0 and "resumes after step 5 of 16" in resumed.err


def test_where_memory_ends_elsewhere_is_told(bertjax, home, finetuned, monkeypatch):
    monkeypatch.setattr(scoring, "put_batch", too_much)
    outcome = bertjax("evaluate", finetuned, "--data", home)
    assert outcome.code == 2 and outcome.err.endswith(f"{LACKS}: give smaller batches, or other devices\n"), outcome.err


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 17G of 15.75G hbm.\n\nTotal",
            "Ran out of memo",
        ),
        ("RESOURCE_EXHAUSTED: Failed to allocate request for 1.2GiB\nmore", "Failed to allocate request for 1.2GiB"),
        ("RESOURCE_EXHAUSTED: too many requests", ""),
        ("INTERNAL: no memory", ""),
    ],
)
def test_only_a_lack_of_memory_is_one(error, said):
    found = lacked_memory(jax.errors.JaxRuntimeError(error))
    assert found.startswith(said) and bool(found) == bool(said) and "\n" not in found
    assert not lacked_memory(ValueError(error))


def test_a_dry_run_says_whether_it_fits(bertjax, home, data, tmp_path, monkeypatch):
    command = ["pretrain", home / "pretrain.py", "--data", data, "--out", tmp_path / "run", "--dry-run"]
    monkeypatch.setattr(memory, "machine_memory", lambda: GIB)
    assert re.search(r"\nfits: needs [\d.]+ MiB of 1.00 GiB\n", bertjax(*command).out)
    monkeypatch.setattr(memory, "machine_memory", lambda: 1000)
    found = bertjax(*command).out
    assert "does NOT fit: needs " in found and "`bertjax plan` with --topology local tells what would mend it" in found


def test_a_dry_run_says_so_too_where_the_compiler_refuses(bertjax, home, data, tmp_path, monkeypatch):
    """As libtpu does."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def refuse(_, **__):
        raise jax.errors.JaxRuntimeError(
            "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 17.00G of 15.75G hbm."
        )

    monkeypatch.setattr(jax.stages.Lowered, "compile", refuse)
    command = ["pretrain", home / "pretrain.py", "--data", data, "--out", tmp_path / "run", "--dry-run"]
    outcome = bertjax(*command)
    assert outcome.code == 0 and "does NOT fit: needs 17.00 GiB of 15.75 GiB" in outcome.out


OPTIONS = ["--topology", "local", "--model.vocab-size", "99", "--batch-size", "32", "--micro-batches", "1"]


@pytest.fixture
def plan(bertjax, home, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return lambda *options: bertjax("plan", home / "pretrain.py", "--out", tmp_path / "p.json", *OPTIONS, *options)


def test_data_parallel_while_it_fits(plan, monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "machine_memory", lambda: 8 * GIB)
    outcome = plan("--mesh.data", "-1")
    assert "mesh data 8 (data and fsdp chosen): parameters, gradient and optimizer take 0." in outcome.err
    assert "a device has 1.00 GiB\n" in outcome.err and "mesh data 8" in outcome.out
    assert json.loads((tmp_path / "p.json").read_text())["mesh_reason"].endswith("a device has 1.00 GiB")


def test_an_axis_that_was_given_is_not_said_to_be_chosen(plan, monkeypatch):
    monkeypatch.setattr(memory, "machine_memory", lambda: 0)
    outcome = plan("--mesh", "data=-1,seq=8")
    assert "mesh data 1 x seq 8 (data and fsdp chosen): the memory of a device is not known" in outcome.err


def test_cut_where_it_does_not(plan, monkeypatch):
    monkeypatch.setattr(automesh, "activations", lambda *_: 0)
    monkeypatch.setattr(
        automesh, "device_memory", lambda *_: 150_000
    )  # state and gradient of half a model are about 200e3
    outcome = plan("--mesh.data", "-1", "--mesh.tensor", "2")
    assert "mesh data 2 x fsdp 2 x tensor 2 (data and fsdp chosen)" in outcome.err, outcome.err
    assert "mesh data 2 x fsdp 2 x tensor 2" in outcome.out


def test_what_was_given_is_taken(plan, monkeypatch, tmp_path):
    monkeypatch.setattr(automesh, "choose", None)
    assert "mesh fsdp 8" in plan("--mesh.data", "1", "--mesh.fsdp", "8").out
    assert "mesh data 2 x fsdp 4" in plan("--mesh.data", "-1", "--mesh.fsdp", "4").out
    assert json.loads((tmp_path / "p.json").read_text())["mesh_reason"] is None


@pytest.mark.slow
def test_a_run_and_its_dry_run_say_what_was_chosen(bertjax, home, data, tmp_path):
    options = ["--data", data, "--out", tmp_path / "run", "--mesh.data", "-1", "--batch-size", "16", "--steps", "1"]
    for more in (["--dry-run"], []):
        outcome = bertjax("pretrain", home / "pretrain.py", *options, *more)
        assert outcome.code == 0 and "mesh data 8 (data and fsdp chosen)" in outcome.err
