"""`bertjax doctor`: every ill it knows is provoked, and told with its cure."""

import errno
import os
import shutil
import subprocess
import sys
from collections import namedtuple

import pytest
from disks import refuse_to_read

from bertjax import doctor
from bertjax.lock import held
from bertjax.train import cluster, hosts

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def examined(bertjax):
    """examined(*arguments) -> exit code, and of each line of the table what it says of something: (state, rest)."""

    def call(*arguments):
        outcome = bertjax("doctor", *arguments)
        cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in outcome.out.splitlines() if "│" in line]
        rows = []
        for state, what, seen, cure in cells:  # long texts go on in the next lines
            if state:
                rows.append(["", "", "", ""])
            for i, text in enumerate((state, what, f" {seen}", f" {cure}")):
                rows[-1][i] += text
        found = {what.partition("/")[0].strip(): (state, seen + cure) for state, what, seen, cure in rows}
        assert ("checks failed" in outcome.err) == (outcome.code == 2)
        return outcome.code, found

    return call


@pytest.fixture
def copied(pretrained, tmp_path):
    """A finished run that may be spoilt."""
    return shutil.copytree(pretrained, tmp_path / "run")


def squeezed(text):
    return "".join(text.split())


def test_all_is_well(examined, copied, data):
    code, found = examined("--out", copied, "--data", data, "--mesh.fsdp", 2)
    assert code == 0
    assert {state for state, _ in found.values()} == {"ok"}, found
    assert "8 here, 8 in all: cpu" in found["devices"][1] and "data 4, fsdp 2" in found["mesh"][1]
    assert "one process alone" in found["cluster"][1] and "two checkpoints" in found["disk"][1]
    assert "lastcheckpointofstep16;thesamecommandgoeson" in squeezed(found["run"][1])


def test_a_new_folder_is_tried_and_not_left_behind(examined, tmp_path):
    code, found = examined("--out", tmp_path / "new" / "run")
    assert code == 0 and "nothing is begun" in found["run"][1]
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda folder: (folder / "meta.json").unlink(), "not a prepared corpus"),
        (lambda folder: next(folder.glob("*.array_record")).unlink(), "array_record: missing"),
        (lambda folder: [damage(path) for path in folder.glob("*.array_record")], "is damaged"),
        (lambda folder: shutil.rmtree(folder / "tokenizer"), "tokenizer"),
    ],
)
def test_data_that_cannot_be_used(examined, data, tmp_path, spoil, told):
    folder = shutil.copytree(data, tmp_path / "data")
    spoil(folder)
    code, found = examined("--data", folder)
    state, text = found["data"]
    assert (code, state) == (2, "fail") and squeezed(told) in squeezed(text), text


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_folder_that_cannot_be_written(examined, home):
    code, found = examined("--out", home / "dev.tsv" / "run")
    assert code == 2 and found["run"][0] == "fail"


def test_what_others_left_in_the_folder(examined, copied):
    (copied / "checkpoints/17.orbax-checkpoint-tmp").mkdir()
    (copied / "config.json.tmp").touch()
    (copied / "holiday.jpg").touch()
    code, found = examined("--out", copied)
    assert code == 0
    assert found["stale files"][0] == found["foreign files"][0] == "warn"
    assert (
        "17.orbax-checkpoint-tmp" in squeezed(found["stale files"][1]) and "config.json.tmp" in found["stale files"][1]
    )
    assert "holiday.jpg" in found["foreign files"][1]


def test_a_folder_of_others_in_which_no_run_begins(examined, data):
    code, found = examined("--out", data)
    assert code == 2 and found["foreign files"][0] == "fail" and "meta.json" in found["foreign files"][1]


def test_what_is_ours_is_not_foreign(examined, copied):
    (copied / "stacks-0.txt").touch()
    for run in ("cola/seed-0", "mnli/batch-16_rate-2e-05_epochs-3/seed-1"):
        (copied / run).mkdir(parents=True)
        (copied / run / "config.json").touch()
    code, found = examined("--out", copied)
    assert code == 0 and "foreign files" not in found, found


def test_a_folder_in_use(examined, copied):
    with held(copied):
        code, found = examined("--out", copied)
    assert code == 2 and found["run"][0] == "fail" and "is being written by" in found["run"][1]


def test_a_damaged_config(examined, copied):
    (copied / "config.json").write_text("{")
    code, found = examined("--out", copied)
    assert code == 2 and found["run"][0] == "fail"


@pytest.mark.parametrize("part", ["array_record", "meta.json", "config.json"])
def test_what_cannot_be_read(examined, copied, data, monkeypatch, part):
    refuse_to_read(monkeypatch, part, errno.EIO)
    code, found = examined("--data", data, "--out", copied)
    state, told = found["run" if part.startswith("config") else "data"]
    assert code == 2 and state == "fail" and f"{part}:Input/outputerrorcheckthedisk(dmesg)" in squeezed(told)


@pytest.mark.parametrize(
    ("free", "begun", "state"), [(1 << 10, True, "fail"), (1 << 30, False, "warn"), (1 << 30, True, "ok")]
)
def test_room_on_the_disk(examined, copied, tmp_path, monkeypatch, free, begun, state):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1 << 40, 0, free))
    code, found = examined("--out", copied if begun else tmp_path / "new")
    assert found["disk"][0] == state and code == (2 if state == "fail" else 0)


def test_a_mesh_that_does_not_fit(examined):
    code, found = examined("--mesh", "fsdp=3,tensor=3")
    assert code == 2 and found["mesh"][0] == "fail" and "needs 9 devices" in found["mesh"][1]


@pytest.fixture
def chips(tmp_path, monkeypatch):
    """chips(package): a machine with a TPU that JAX does not use, whatever it finds that by."""

    def there(package):
        (tmp_path / "accel0").touch()
        known = cluster.Plugin("TPU", "tpu", (str(tmp_path / "accel0"),), package, "pip install 'bertjax[tpu]'")
        monkeypatch.setattr(cluster, "PLUGINS", [known])
        monkeypatch.delenv("JAX_PLATFORMS", raising=False)

    return there


@pytest.mark.parametrize(("package", "cure"), [("no_such_package", "pip"), ("json", "end what else uses them")])
def test_chips_that_jax_does_not_see(examined, chips, package, cure):
    chips(package)
    code, found = examined()
    assert code == 2 and found["devices"][0] == "fail" and "bertjax[tpu]" in found["devices"][1]
    assert cure in found["devices"][1]


def test_nobody_trains_on_the_cpu_of_a_machine_whose_chips_are_in_use(
    bertjax, home, data, tmp_path, chips, monkeypatch
):
    monkeypatch.setattr(cluster.xla_bridge, "_backend_errors", {"tpu": "in use by process 12"})
    command = ["pretrain", home / "pretrain.py", "--data", data, "--out", tmp_path / "run", "--steps", 1]
    chips("json")
    outcome = bertjax(*command)
    assert outcome.code == 42 and not (tmp_path / "run").exists(), outcome.err
    assert "the machine has a TPU (in use by process 12), but JAX computes on the CPU; end what" in outcome.err
    chips("no_such_package")
    outcome = bertjax(*command)
    assert outcome.code == 0 and "computes on the CPU, but the machine has a TPU: pip install" in outcome.err
    shutil.rmtree(tmp_path / "run")
    chips("json")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    outcome = bertjax(*command)
    assert outcome.code == 0 and "the machine has" not in outcome.err


@pytest.mark.parametrize("verb", ["doctor", "pretrain"])
def test_devices_that_cannot_be_had(verb, home, data, tmp_path):
    options = {"doctor": [], "pretrain": [home / "pretrain.py", "--data", data, "--out", tmp_path / "run"]}
    done = subprocess.run(
        [sys.executable, "-m", "bertjax", *map(str, [verb, *options[verb]])],
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cuda"},
    )
    assert done.returncode == (2 if verb == "doctor" else 42) and "Traceback" not in done.stderr, done.stderr
    told = " ".join((done.stdout if verb == "doctor" else done.stderr).split())
    assert "jax gets no devices" in told and "JAX_PLATFORMS=cpu" in told, told


def test_what_ails_other_processes_is_told_whatever_it_is():
    finding = doctor.Finding("fail", "data " + "語" * 900, '"\\"' * 300, "\x00" * 300)
    assert len(doctor._brief([finding, finding])) <= hosts.LONGEST


def test_a_lock_of_someone_else(examined, tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "TPU_LOCK", tmp_path / "lock")
    (tmp_path / "lock").touch()
    assert examined()[0] == 0
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    code, found = examined()
    assert code == 2 and "sudo rm -f" in found["TPU lock"][1]


def test_versions_that_do_not_go_together(examined, monkeypatch):
    numbers = {"jax": "0.10.2", "jaxlib": "0.10.2", "libtpu": "0.0.31", "bertjax": "1"}
    real = doctor.version
    monkeypatch.setattr(doctor, "version", lambda name: numbers[name] if name in numbers else real(name))
    monkeypatch.setattr(doctor, "requires", lambda name: ["libtpu==0.0.31.* ; extra == 'tpu'"])
    assert examined()[0] == 0
    for name, number in {"jaxlib": "0.10.1", "libtpu": "0.0.3"}.items():
        before, numbers[name] = numbers[name], number
        code, found = examined()
        assert code == 2 and name in found["versions"][1] and f"'{name}=={before}" in squeezed(found["versions"][1])
        numbers[name] = before


def test_a_cluster_told_by_halves(examined):
    code, found = examined("--hosts.processes", 2)
    assert code == 2 and found["cluster"][0] == "fail" and "--hosts.coordinator" in found["cluster"][1]
    assert "devices" not in found


def test_help_names_the_options(bertjax):
    outcome = bertjax("doctor", "--help")
    assert outcome.code == 0 and all(option in outcome.out for option in ("--out", "--data", "--mesh.fsdp", "--hosts"))
