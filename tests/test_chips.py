"""The table of chips: names as JAX gives them."""

from importlib.metadata import PackageNotFoundError

import pytest

from bertjax import chips
from bertjax.chips import CHIPS, check_libtpu, chip_of, gpu_share
from bertjax.errors import ConfigError


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v4", "v4"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5e", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v5p", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("TPU7x", "tpu7x"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
    ],
)
def test_kinds(kind, name):
    assert chip_of(kind) == CHIPS[name]


# Those on PCIe have slower memory than those on the board that `CHIPS` describes, and no switch.
@pytest.mark.parametrize(
    "kind", ["cpu", "NVIDIA A100 80GB PCIe", "NVIDIA H100 PCIe", "NVIDIA H200 NVL", "TPU v7", "NVIDIA RTX 4090", ""]
)
def test_what_is_not_known_has_no_peak(kind):
    assert chip_of(kind) is None


PEAKS = {  # FLOP/s in bfloat16 and float32, bytes a second of memory, of links one way, of the network; links
    "v4": (275e12, 275e12, 1228e9, 300e9, 0, 6),
    "v5e": (197e12, 197e12, 819e9, 200e9, 3.1e9, 4),
    "v5p": (459e12, 459e12, 2765e9, 600e9, 6.25e9, 6),
    "v6e": (918e12, 918e12, 1640e9, 400e9, 12.5e9, 4),
    "tpu7x": (2307e12 / 2, 2307e12 / 2, 7380e9 / 2, 600e9 / 2, 12.5e9 / 2, 6),  # of a chip's two devices one
    "a100": (312e12, 156e12, 2039e9, 300e9, 25e9, 0),
    "h100": (989e12, 494.5e12, 3350e9, 450e9, 50e9, 0),
    "h200": (989e12, 494.5e12, 4800e9, 450e9, 50e9, 0),
}
MEMORY = {
    "v4": 30.75,
    "v5e": 15.75,
    "v5p": 95.74,
    "v6e": 31.25,
    "tpu7x": 94.74,
    "a100": 79.256,
    "h100": 79.11,
    "h200": 139.81,
}  # GiB


def test_peaks_are_those_of_the_makers():
    found = {n: (c.flops, c.float32, c.bandwidth, c.links, c.network, c.ports) for n, c in CHIPS.items()}
    assert {name: pytest.approx(peaks) for name, peaks in PEAKS.items()} == found
    assert {name: pytest.approx(gib, rel=1e-3) for name, gib in MEMORY.items()} == {
        name: chip.memory / 2**30 for name, chip in CHIPS.items()
    }
    assert CHIPS["a100"].source.endswith("/a100") and CHIPS["v6e"].source.endswith("/v6e")


def test_a_compiler_that_crashes_is_told_before_it_does(monkeypatch):
    monkeypatch.setattr(chips, "version", lambda _: "0.0.42.1")
    with pytest.raises(ConfigError, match=r"libtpu 0.0.42.1 crashes .* TPU7x; it takes 0.0.48 or newer: pip install"):
        check_libtpu("TPU7x")
    for kind in ("TPU v5e", "cpu"):
        check_libtpu(kind)
    for good in ("0.0.48", "0.0.48.1", "0.0.100", "0.1", "1.0"):
        monkeypatch.setattr(chips, "version", lambda _, good=good: good)
        check_libtpu("TPU7x")


def test_a_compiler_that_pip_has_not_installed_is_not_judged(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(chips, "version", missing)
    check_libtpu("TPU7x")


def test_what_jax_takes_of_a_gpu(monkeypatch):
    variable = "XLA_PYTHON_CLIENT_MEM_FRACTION"
    monkeypatch.delenv(variable, raising=False)
    assert gpu_share() == 0.75
    monkeypatch.setenv(variable, ".9")
    assert gpu_share() == 0.9
    for wrong in ("most", "0", ""):
        monkeypatch.setenv(variable, wrong)
        with pytest.raises(ConfigError, match="share of a GPU"):
            gpu_share()
