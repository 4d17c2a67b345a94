"""What a device has of memory: of a CPU what the machine or a container allows, shared by all devices that compute."""

import json
from types import SimpleNamespace

import jax
import pytest

from bertjax import memory
from bertjax.chips import CHIPS
from bertjax.memory import GIB, Machine, device_memory, fits, machine_memory, machines, verdict


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """groups(lines of /proc/self/cgroup, {file: text}): the control groups of a machine of 64 GiB."""
    sizes = {"SC_PHYS_PAGES": 64 * GIB // 4096, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(memory, "os", SimpleNamespace(sysconf=sizes.__getitem__))
    monkeypatch.setattr(memory, "ROOT", tmp_path)

    def make(lines, files):
        for name, text in {"proc/self/cgroup": lines, **files}.items():
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{text}\n")

    return make


def test_the_memory_of_a_machine(groups):
    assert machine_memory() == 64 * GIB
    groups("9:name=systemd:/\n4:memory:/\n0::/", {"sys/fs/cgroup/memory/memory.limit_in_bytes": 9223372036854771712})
    assert machine_memory() == 64 * GIB


@pytest.mark.parametrize(
    ("lines", "files", "least"),
    [
        ("0::/a/b", {"a/b/memory.max": "max", "a/memory.max": 8 * GIB, "memory.max": 9 * GIB}, 8),
        ("0::/", {"memory.max": 3 * GIB}, 3),  # a container that sees its own group as the root
        ("5:cpu:/x\n4:memory:/x", {"memory/x/memory.limit_in_bytes": 2 * GIB, "x/memory.max": 1}, 2),
        ("4:cpu,memory:/docker/7f", {"memory/memory.limit_in_bytes": 5 * GIB}, 5),  # of which it sees the root alone
        ("0::/a", {"a/memory.max": 99 * GIB}, 64),
    ],
)
def test_a_container_has_less(groups, lines, files, least):
    groups(lines, {f"sys/fs/cgroup/{name}": text for name, text in files.items()})
    assert machine_memory() == least * GIB


def test_a_system_that_does_not_say(monkeypatch):
    monkeypatch.setattr(memory, "os", SimpleNamespace())  # as on Windows
    assert machine_memory() == 0
    assert device_memory(jax.devices()[:1]) is None


def device(platform, kind="", process=0):
    return SimpleNamespace(platform=platform, device_kind=kind, process_index=process)


def test_devices_of_one_machine_share_its_memory(monkeypatch):
    monkeypatch.setattr(memory, "machine_memory", lambda: 64 * GIB)
    assert [device_memory(jax.devices()[:count]) for count in (1, 8)] == [64 * GIB, 8 * GIB]
    known = [Machine("a", 64 * GIB, 0), Machine("a", 64 * GIB, 0), Machine("b", 20 * GIB, 0)]
    one, other, third = (device("cpu", process=number) for number in range(3))
    assert device_memory([one, one, other, other, third], known) == 16 * GIB
    assert device_memory([one, third, third], known) == 10 * GIB


def test_accelerators_have_their_own():
    known = [Machine("a", 64 * GIB, 20 * GIB), Machine("b", 64 * GIB, 10 * GIB)]
    assert device_memory([device("tpu", "TPU v5 lite")], known) == CHIPS["v5e"].memory
    assert device_memory([device("gpu", "NVIDIA H200")], known) == round(0.75 * CHIPS["h200"].memory)
    assert device_memory([device("gpu", "NVIDIA L4")] * 2, known) == 10 * GIB
    assert device_memory([device("gpu", "NVIDIA L4")], [Machine("a", 64 * GIB, 0)]) is None


def test_processes_tell_each_other(monkeypatch):
    monkeypatch.setattr(memory, "machine_memory", lambda: 7)
    assert machines() == []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(memory.hosts, "gather", lambda text: [text, json.dumps(["b", 9, 1])])
    assert [machine[1:] for machine in machines()] == [(7, 0), (9, 1)]


def test_whether_it_fits():
    assert [fits(2, limit) for limit in (1, 2, None)] == [False, True, None]
    assert verdict(True, GIB, 2 * GIB) == "fits: needs 1.00 GiB of 2.00 GiB"
    assert verdict(False, 3 * GIB, GIB).endswith("NOT fit: needs 3.00 GiB of 1.00 GiB, 2.00 GiB too many")
    assert "is not known: it needs 512.0 MiB" in verdict(None, GIB // 2, None)
