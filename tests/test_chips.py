"""The table of chips: names as JAX gives them."""

import pytest

from bertjax.chips import CHIPS, chip_of, gpu_share
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
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
    ],
)
def test_kinds(kind, name):
    assert chip_of(kind) == CHIPS[name]


@pytest.mark.parametrize("kind", ["cpu", "NVIDIA H100 PCIe", "TPU v7", "NVIDIA GeForce RTX 4090", ""])
def test_what_is_not_known_has_no_peak(kind):
    assert chip_of(kind) is None


def test_peaks_are_in_the_right_units():
    for chip in CHIPS.values():
        assert 1e14 < chip.flops < 1e16 and 1e10 < chip.memory < 1e12 and 1e11 < chip.bandwidth < 1e13
        assert 50 < chip.flops / chip.bandwidth < 1000  # FLOP for a byte at which memory no longer binds


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
