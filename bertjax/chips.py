"""Accelerators: what one can do, as its maker says."""

import os
import re
from typing import NamedTuple

from bertjax.errors import ConfigError

GB, GIB, TERA = 1e9, 2**30, 1e12


class Chip(NamedTuple):
    """Peaks of one chip; bandwidths in bytes a second, those of links one way and all of them together; 0: unknown."""

    name: str
    flops: float  # bf16, dense, a second
    memory: float  # bytes that programs can have: of TPUs as libtpu, of GPUs as CUDA says, before JAX takes its share
    bandwidth: float  # of the memory
    links: float  # to the chips of the same slice or board
    network: float  # to other slices, or hosts
    source: str
    kind: str  # a regular expression that all of JAX's `device_kind` matches


_TPU = "https://cloud.google.com/tpu/docs/"
_GPU = "https://www.nvidia.com/en-us/data-center/"
CHIPS: dict[str, Chip] = {
    # The documents give links in both directions together (v5e 400 GB/s) or one way in bits (1600 Gbps): the same.
    "v4": Chip("TPU v4", 275 * TERA, 30.75 * GIB, 1_228 * GB, 300 * GB, 0, _TPU + "v4", "TPU v4"),
    "v5e": Chip("TPU v5e", 197 * TERA, 15.75 * GIB, 819 * GB, 200 * GB, 3.1 * GB, _TPU + "v5e", "TPU v5 ?(lite|e)"),
    "v5p": Chip("TPU v5p", 459 * TERA, 95.74 * GIB, 2_765 * GB, 600 * GB, 6.25 * GB, _TPU + "v5p", "TPU v5p?"),
    "v6e": Chip("TPU v6e", 918 * TERA, 31.25 * GIB, 1_640 * GB, 400 * GB, 12.5 * GB, _TPU + "v6e", "TPU v6 ?(lite|e)"),
    # Networks are those of a DGX of eight, 200 (A100) or 400 Gbit/s for each GPU: docs.nvidia.com/dgx, "Introduction".
    "a100": Chip(
        "A100", 312 * TERA, 85_100_068_864, 2_039 * GB, 300 * GB, 25 * GB, _GPU + "a100", "NVIDIA A100.*80GB.*"
    ),
    "h100": Chip(
        "H100 SXM", 989 * TERA, 84_942_979_072, 3_350 * GB, 450 * GB, 50 * GB, _GPU + "h100", "NVIDIA H100 80GB HBM3"
    ),
    "h200": Chip("H200", 989 * TERA, 150_121_545_728, 4_800 * GB, 450 * GB, 50 * GB, _GPU + "h200", "NVIDIA H200"),
}


def gpu_share() -> float:
    """What of a GPU's memory JAX takes, as its environment variable says; three quarters without it."""
    text = os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.75")
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if share <= 0:
        raise ConfigError(f"XLA_PYTHON_CLIENT_MEM_FRACTION={text!r} is no share of a GPU's memory, such as 0.9")
    return share


def chip_of(device_kind: str) -> Chip | None:
    """The chip that JAX calls so; None for what is not in the table, such as CPUs."""
    return next((chip for chip in CHIPS.values() if re.fullmatch(chip.kind, device_kind)), None)
