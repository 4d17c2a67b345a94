"""Chips that are not here: which of them there are, and how many."""

import re
from importlib.util import find_spec
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from bertjax.chips import CHIPS
from bertjax.errors import ConfigError
from bertjax.plan import topology
from bertjax.plan.topology import PODS, devices_of, links_of


@pytest.fixture
def asked(monkeypatch):
    """What the compilers are asked to describe, in place of asking them."""
    found = []
    for name in ("_tpus", "_gpus"):
        monkeypatch.setattr(topology, name, lambda *of: found.append(of) or [])
    return found


@pytest.mark.parametrize(
    "shape",
    [
        "v5e:1x1",
        "v5e:2x4",
        "v6e:16x16",
        "v4:2x2x1",
        "v4:4x4x8",
        "v5p:16x16x24",
        "v5p:2x2x4",
        "tpu7x:1x1x1",
        "tpu7x:12x24x32",
        "h100:8",
    ],
)
def test_shapes_there_are(shape, asked):
    name, _, rest = shape.partition(":")
    chip, _ = devices_of(shape, 2)
    assert asked == [(name, rest, 2) if name in PODS else (name, 2, int(rest))] and chip.name == CHIPS[name].name


@pytest.mark.parametrize(
    ("shape", "cure"),
    [
        *((shape, "v5e comes as 1x1, 2x2,") for shape in ("v5e:2x4x4", "v5e:32x32", "v5e:4x2", "v5e:", "v5e:2x4x1")),
        *((shape, "several slices are --mesh.dcn N") for shape in ("v6e:2x2x2", "v6e:1x256", "v6e:-2x2", "v6e:2×2")),
        *((shape, "longest last, up to 4,096 chips") for shape in ("v4:16x20x28", "v4:4x4", "v4:0x4x4", "v4:3x3x3")),
        *((shape, "the longest last, up to 6,144 chips") for shape in ("v5p:9999x9999x9999", "v5p:2x2x3", "v5p:1x1x1")),
        *((shape, "longest last, up to 9,216 chips") for shape in ("tpu7x:2x2", "tpu7x:1x1x2", "tpu7x:12x28x32")),
        ("v5p:16x20x28", "up to 6,144 chips"),  # a pod has them, a slice cannot
        *((f"v5p:{shape}", "; did you mean v5p:4x4x8\\?") for shape in ("8x4x4", "4x8x4")),
        *((shape, "; did you mean v4:2x2x1\\?") for shape in ("v4:1x2x2", "v4:2x1x2")),
        ("v5e:4x2", "; did you mean v5e:2x4\\?"),
        *((shape, "how many a host has, 1 to 8, as in h100:8") for shape in ("h100:16", "h100:0", "h100:2x4", "h100")),
    ],
)
def test_shapes_there_are_not_never_reach_a_compiler(shape, cure, asked):
    with pytest.raises(ConfigError, match=f"--topology {re.escape(shape)}: .*{cure}") as refused:
        devices_of(shape, 1)
    assert not asked and "\n" not in str(refused.value)


@pytest.mark.parametrize(("shape", "slices"), [("v5e:16x16", 1_000_000), ("v5p:16x16x24", 11), ("h100:8", 1_000_000)])
def test_nor_does_a_number_of_chips_that_nobody_has(shape, slices, asked):
    with pytest.raises(ConfigError, match=f"--mesh.dcn {slices}: {slices:,} times {shape} is .* chips, over 65,536"):
        devices_of(shape, slices)
    assert not asked


def chips(kind, *sides):
    return [SimpleNamespace(device_kind=kind, coords=coords) for coords in np.ndindex(*sides)]


@pytest.mark.parametrize(
    ("kind", "sides", "group", "links"),
    [
        ("TPU v5e", (2, 4, 1), [0, 4], 1),
        ("TPU v5e", (2, 4, 1), [0, 1, 2, 3], 1),  # no ring: only a full pod's sides are
        ("TPU v5e", (2, 4, 1), range(8), 2),
        ("TPU v5e", (2, 4, 1), [0, 2], 1 / 2),  # another pair needs the same links
        ("TPU v6e", (16, 16, 1), range(16), 2),
        ("TPU v6e", (16, 16, 1), range(4), 1),
        ("TPU v6e", (16, 16, 1), range(0, 16, 4), 2 / 4),
        ("TPU v6e", (16, 16, 1), range(256), 4),
        ("TPU v5p", (4, 4, 4), range(4), 2),
        ("TPU v5p", (4, 4, 8), range(128), 6),
        ("TPU v4", (2, 4, 4), range(4), 1),
        ("TPU v4", (2, 2, 1), range(4), 2),
        ("NVIDIA H200", (), [0], 0),
        ("cpu", (), [0], 0),
    ],
)
def test_links_are_those_of_the_dimensions_that_a_group_is_in(kind, sides, group, links):
    assert links_of(list(group), chips(kind, *sides)) == pytest.approx(links)


@pytest.mark.skipif(not find_spec("libtpu"), reason="libtpu is not installed (bertjax[tpu])")
@pytest.mark.parametrize("name", PODS)
def test_libtpu_knows_the_shapes_that_are_listed(name):
    for shape in PODS[name].shapes:
        chip, devices = devices_of(f"{name}:{shape}", 1)
        assert len(devices) == eval(shape.replace("x", "*")) and re.fullmatch(chip.kind, devices[0].device_kind)


@pytest.mark.parametrize(("kind", "name"), [("TPU v5 lite", "v5e"), ("NVIDIA H200", "h200")])
def test_a_chip_of_this_machine_is_known(kind, name, monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(device_kind=kind)])
    chip, devices = devices_of("local", 0)
    assert chip == CHIPS[name] and len(devices) == 1


def test_a_cpu_has_no_peaks():
    assert devices_of("local", 0) == (None, jax.devices())
