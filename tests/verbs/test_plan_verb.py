"""`bertjax plan`: on the devices of this machine always, for TPUs where libtpu is installed."""

import json
import subprocess
import sys
from importlib.util import find_spec

import pytest

from bertjax import memory
from bertjax.data.meta import Meta
from bertjax.plan import program, topology

NEEDS_CUDA = pytest.mark.skipif(not find_spec("jax_cuda13_plugin"), reason="JAX for CUDA is not installed")
NEEDS_LIBTPU = pytest.mark.skipif(not find_spec("libtpu"), reason="libtpu is not installed (bertjax[tpu])")


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def plan(bertjax, home, tmp_path):
    """plan(options) -> the outcome, and what is in its file."""

    def call(*options):
        outcome = bertjax("plan", home / "pretrain.py", "--out", tmp_path / "plan.json", *options)
        return outcome, json.loads((tmp_path / "plan.json").read_text()) if outcome.code == 0 else None

    return call


def test_the_devices_of_this_machine(plan):
    outcome, found = plan("--topology", "local", "--mesh.data", "4", "--mesh.fsdp", "2", "--batch-size", "32")
    assert outcome.code == 0, outcome.err
    assert "mesh data 4 x fsdp 2" in outcome.out and "compiling for 32 x 32 on local" in outcome.err
    (phase,) = found["phases"]
    assert (phase["batch_size"], phase["length"], phase["tokens_per_step"], phase["fits"]) == (32, 32, 1024, True)
    assert {tuple(one["axes"]) for one in phase["collectives_per_step"]} >= {("fsdp",), ("data",)}
    sizes = phase["bytes_per_chip"]
    assert sizes["needed"] == sizes["arguments"] + sizes["temporaries"] + sizes["program"]
    assert sizes["arguments"] > sizes["parameters"] + sizes["optimizer"] and sizes["optimizer"] > sizes["parameters"]
    assert phase["flops_per_step"]["ratio"] is None  # its recipe has micro-batches, in a loop


def test_options_reach_the_program_and_phases_have_one_each(plan):
    options = (
        "--topology",
        "local",
        "--micro-batches",
        "1",
        "--model.vocab-size",
        "99",
        "--later-phases",
        "0.25",
        "40",
        "4",
    )
    outcome, found = plan(*options, "--quick", "--packing", "--mesh.data", "2")
    assert outcome.code == 0 and found["effort"] == "quick" and found["idle_devices"] == 6
    assert "6 of 8 devices have nothing to do" in outcome.out
    first, second = found["phases"]
    assert (second["batch_size"], second["length"], second["steps"]) == (4, 40, 4)
    assert first["flops_per_step"]["ratio"] > 1.0 and not first["from_cache"]
    _, again = plan(*options, "--quick", "--packing", "--mesh.data", "2")
    assert [phase["from_cache"] for phase in again["phases"]] == [True, True]


def test_prepared_data_give_the_vocabulary(plan, data):
    _, without = plan("--topology", "local", "--mesh.data", "1")
    _, found = plan("--topology", "local", "--mesh.data", "1", "--data", data)
    sizes = [report["phases"][0]["bytes_per_chip"]["parameters"] for report in (without, found)]
    assert sizes[0] - sizes[1] == 4 * (30_522 - Meta.load(data).vocab_size) * (32 + 1)


def test_a_mesh_in_one_option_and_the_arrays_it_does_not_divide(plan):
    outcome, found = plan("--topology", "local", "--mesh", "data=1,tensor=4", "--batch-size", "8")
    assert outcome.code == 0 and found["mesh"] == {"dcn": 1, "data": 1, "fsdp": 1, "seq": 1, "tensor": 4}, outcome.err
    left = found["undivided"]  # query, key, value (weights, biases) and out of two heads, the types; and their moments
    assert left["arrays"] == 3 * (3 * 2 + 1 + 1) and "attn/" in left["such_as"]
    assert f"{left['arrays']} arrays of parameters and optimizer" in outcome.out
    assert "4 of 8 devices have nothing to do: give --mesh.data 2" in outcome.out
    _, again = plan("--topology", "local", "--mesh=data=1,tensor=2", "--batch-size", "8", "--model.vocab-size", "64")
    assert again["undivided"] == {"arrays": 0, "bytes_per_chip": 0, "such_as": ""}


def test_a_preset_and_the_default_name_of_the_file(bertjax, home, tmp_path):
    outcome = bertjax("plan", home / "pretrain.py", "--preset=tiny", "--model.vocab-size", "99", "--topology", "local")
    assert outcome.code == 0, outcome.err
    found = json.loads((tmp_path / "plan-local.json").read_text())
    assert found["phases"][0]["bytes_per_chip"]["parameters"] > 4 * 2 * 12 * 128**2


def test_what_does_not_fit_is_told_with_what_would(plan, monkeypatch):
    short = program.Program(fits=False, temporaries=40 << 30, arguments=1 << 30, available=15 << 30)
    monkeypatch.setattr("bertjax.plan.verb.compiled_step", lambda *_, **__: short)
    outcome, found = plan("--topology", "local", "--mesh.data", "1", "--batch-size", "64", "--micro-batches", "1")
    assert outcome.code == 0 and found["phases"][0]["short_by_bytes"] == 26 << 30
    assert found["phases"][0]["collectives_per_step"] is None  # nobody knows: there is no program
    assert found["phases"][0]["bytes_per_chip"]["program"] is None and "the program itself" not in outcome.out
    assert "does NOT fit: needs 41.00 GiB of 15.00 GiB, 26.00 GiB too many. Each of these should" in outcome.out
    assert "--micro-batches 4" in outcome.out and "--remat" not in outcome.out  # which changes nothing on a CPU
    options = ("--topology", "local", "--mesh.data", "1", "--micro-batches", "1", "--later-phases", "0.25", "40", "64")
    outcome, found = plan(*options)
    assert "  --batch-size 2\n" in outcome.out and "  --later-phases 0.25 40 16\n" in outcome.out


def test_the_memory_of_this_machine(plan, monkeypatch):
    options = ("--topology", "local", "--mesh.data", "2", "--batch-size", "64", "--micro-batches", "1")
    monkeypatch.setattr(memory, "machine_memory", lambda: 8 << 20)
    outcome, found = plan(*options)
    (phase,) = found["phases"]
    assert phase["fits"] is False and phase["bytes_per_chip"]["available"] == 4 << 20
    assert phase["short_by_bytes"] == phase["bytes_per_chip"]["needed"] - (4 << 20)
    assert "does NOT fit" in outcome.out and phase["would_mend_it"]
    monkeypatch.setattr(memory, "machine_memory", lambda: 0)
    outcome, found = plan(*options)
    (phase,) = found["phases"]
    assert phase["fits"] is None and phase["bytes_per_chip"]["available"] is None and "would_mend_it" not in phase
    assert "whether it fits is not known: it needs " in outcome.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "missing: --topology"),
        (("--topology", "v5f:2x4"), "chip 'v5f'; did you mean 'v5"),
        (("--topology", "v5e"), "v5e comes as 1x1, 2x2, 2x4,"),
        (("--topology", "h100:2x4"), "how many a host has, 1 to 8, as in h100:8; several hosts are --mesh.dcn N"),
        (("--topology", "h200:16"), "how many a host has, 1 to 8"),
        (("--topology", "v5p:9999x9999x9999"), "in multiples of 4 like 4x4x8, the longest last, up to 6,144 chips"),
        (("--topology", "v5e:16x16", "--mesh.dcn", "1000000"), "--mesh.dcn 1000000: 1,000,000 times v5e:16x16 is"),
        (("--topology", "local", "--batch-size", "12", "--mesh.data", "8"), "batch_size=12 does not divide"),
        (("--topology", "local", "--mesh", "data"), "--mesh data: sizes are given as data=64,fsdp=4"),
        (("--topology", "local", "--mesh"), "--mesh : sizes are given as data=64,fsdp=4"),
        (("--topology", "local", "--mesh", "date=2"), "--mesh.date"),
        (("--topology", "local", "--mesh", "data=4,data=2"), "--mesh data=4,data=2: data given more than once"),
        (("--topology", "local", "--out", "/"), "--out / is a folder; give a file, such as /plan.json"),
        (("--topology", "local", "--out", "/dev/null/plan.json"), "/dev/null: File exists; give another path"),
    ],
)
def test_mistakes(plan, options, message):
    outcome, _ = plan(*options)
    assert outcome.code == 2 and message in outcome.err


@pytest.mark.parametrize(("chips", "extra"), [("v5e:2x4", "tpu"), ("h100:8", "cuda")])
def test_without_a_compiler_the_install_line(plan, monkeypatch, chips, extra):
    def fail(**_):
        raise RuntimeError("no such platform")

    monkeypatch.setattr("jax.experimental.topologies.get_topology_desc", fail)
    monkeypatch.setattr(topology, "find_spec", lambda _: None)
    outcome, _ = plan("--topology", chips)
    assert outcome.code == 2 and outcome.err.count("\n") == 1
    assert f"pip install 'bertjax[{extra}]'" in outcome.err


def elsewhere(home, tmp_path, *options):
    """In a process of its own: such a compiler is loaded once and for all."""
    command = [
        sys.executable,
        "-m",
        "bertjax",
        "plan",
        home / "pretrain.py",
        "--out",
        tmp_path / "plan.json",
        "--quick",
    ]
    done = subprocess.run([*command, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((tmp_path / "plan.json").read_text()), done.stdout


@NEEDS_LIBTPU
def test_a_topology(home, tmp_path):
    options = ["--topology", "v5e:2x4", "--mesh.data", "4", "--mesh.fsdp", "2", "--batch-size", "32"]
    found, shown = elsewhere(home, tmp_path, *options, "--micro-batches", "1")
    (phase,) = found["phases"]
    assert found["devices"] == 8 and phase["fits"] and phase["bytes_per_chip"]["available"] == 15.75 * 2**30
    assert phase["estimate"]["binds"] in ("compute", "memory", "links") and "estimate" in shown
    assert phase["estimate"]["dtype"] == "float32" and "; in float32" in shown
    assert {one["links"] for one in phase["collectives_per_step"] if one["axes"] == ["data", "fsdp"]} <= {2.0}
    crossed = {tuple(one["axes"]) for one in phase["collectives_per_step"]}
    assert ("fsdp",) in crossed and crossed <= {("fsdp",), ("data",), ("data", "fsdp")}


@NEEDS_LIBTPU
@pytest.mark.parametrize("slices", ["1", "2"])
def test_data_parallelism_sends_the_gradient_once(home, tmp_path, slices):
    options = [
        "--topology",
        "v5e:2x4",
        "--mesh.dcn",
        slices,
        "--mesh.data",
        "-1",
        "--mesh.fsdp",
        "1",
        "--batch-size",
        "32",
    ]
    found, _ = elsewhere(home, tmp_path, *options, "--model.vocab-size", "1024", "--model.dtype", "bfloat16")
    (phase,) = found["phases"]  # of two micro-batches
    count, sent = phase["bytes_per_chip"]["parameters"] // 4, phase["collectives_per_step"]
    inside = [one for one in sent if one["axes"] == ["data"]]
    if slices == "1":
        assert inside == sent and {one["kind"] for one in sent} == {"all-reduce"}
        assert sum(one["times"] for one in sent) == 2
        assert count < sum(one["elements"] for one in sent) <= count + 16
    else:  # scattered inside each slice, reduced across, gathered: each chip sends an eighth over the network
        across = sum(one["elements"] for one in sent if one["axes"] == ["dcn"])
        assert count / 8 < across < count / 2
        assert {one["kind"] for one in inside} >= {"reduce-scatter", "all-gather"}


@NEEDS_LIBTPU
def test_more_than_a_chip_has(home, tmp_path):
    options = ["--topology", "v5e:1x1", "--preset", "base", "--mesh.data", "1", "--batch-size", "16384"]
    found, shown = elsewhere(home, tmp_path, *options, "--micro-batches", "1", "--model.layers", "1")
    (phase,) = found["phases"]
    assert not phase["fits"] and phase["short_by_bytes"] > 0 and "does NOT fit" in shown
    assert phase["would_mend_it"][0].startswith("--micro-batches ")


@pytest.mark.slow
@NEEDS_LIBTPU
def test_what_is_advised_fits_when_it_is_followed(home, tmp_path):
    """Hidden states are whole on both chips of `tensor`."""
    options = ["--topology", "v5e:2x2", "--mesh", "data=1,tensor=2", "--preset", "tiny", "--model.dtype", "bfloat16"]
    options += ["--length", "128", "--batch-size", "65536", "--model.vocab-size", "1024", "--micro-batches", "1"]
    short, shown = elsewhere(home, tmp_path, *options)
    cure = short["phases"][0]["would_mend_it"][0].partition(" (")[0].split()
    assert not short["phases"][0]["fits"] and "2 devices have nothing to do" in shown
    assert cure[0] == "--micro-batches" and elsewhere(home, tmp_path, *options, *cure)[0]["phases"][0]["fits"]


@NEEDS_CUDA
def test_gpus(home, tmp_path):
    """Two hosts of two with cuDNN's attention over packed rows; one with less memory than the step takes."""
    options = ["--micro-batches", "1", "--model.dtype", "bfloat16", "--model.vocab-size", "1024"]
    sizes = ["--preset", "tiny", "--batch-size", "64", "--length", "128", "--later-phases"]
    fused = [
        "--mesh.dcn",
        "2",
        "--mesh.data",
        "-1",
        "--mesh.fsdp",
        "1",
        "--packing",
        "--attention",
        "cudnn",
        "--model.attention-dropout",
        "0",
    ]
    found, shown = elsewhere(home, tmp_path, "--topology", "h100:2", *options, *sizes, *fused)
    (phase,) = found["phases"]
    assert found["devices"] == 4 and phase["fits"] and "JAX takes 75%" in shown
    assert 59 << 30 < phase["bytes_per_chip"]["available"] < 60 << 30
    assert {tuple(one["axes"]) for one in phase["collectives_per_step"]} == {("dcn", "data")}
    count = phase["bytes_per_chip"]["parameters"] // 4
    assert count < sum(one["elements"] for one in phase["collectives_per_step"]) <= count + 16
    assert min(phase["estimate"]["milliseconds"][name] for name in ("compute", "memory")) > 0 and "binds" in shown
    sizes[3] = "131072"
    found, shown = elsewhere(home, tmp_path, "--topology", "h100:1", *options, *sizes, "--mesh.data", "1")
    assert not found["phases"][0]["fits"] and "does NOT fit" in shown and "--micro-batches" in shown
