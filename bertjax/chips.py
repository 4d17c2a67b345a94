"""Accelerators: what one can do, as its maker says."""

import os
import re
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

from bertjax.errors import ConfigError

GB, GIB, TERA = 1e9, 2**30, 1e12


class Chip(NamedTuple):
    """Peaks of what JAX calls a device, mostly a chip; bandwidths in bytes a second, those of links one way and all of
    them together; 0: unknown.
    """

    name: str
    flops: float  # bf16, dense, a second
    float32: float  # likewise, of float32 as XLA multiplies it: TPUs in one pass of bf16, GPUs as TF32
    memory: float  # bytes that programs can have: of TPUs as libtpu, of GPUs as CUDA says, before JAX takes its share
    bandwidth: float  # of the memory
    links: float  # to the chips of the same slice or board
    network: float  # to other slices, or hosts
    source: str
    kind: str  # a regular expression that all of JAX's `device_kind` matches
    ports: int = 0  # how many links there are, two in each dimension of a torus; 0: all lead to one switch
    oldest_libtpu: tuple[int, ...] = ()  # the oldest that compiles every step for it


def _tpu(name: str, tera: float, gib: float, gb: float, links: float, network: float, kind: str, ports: int) -> Chip:
    source, flops = f"https://cloud.google.com/tpu/docs/{name}", tera * TERA
    return Chip(f"TPU {name}", flops, flops, gib * GIB, gb * GB, links * GB, network * GB, source, kind, ports)


def _gpu(name: str, tera: float, tf32: float, memory: int, gb: float, links: float, network: float, kind: str) -> Chip:
    source = f"https://www.nvidia.com/en-us/data-center/{name[:4].lower()}"
    return Chip(name, tera * TERA, tf32 * TERA, memory, gb * GB, links * GB, network * GB, source, kind)


CHIPS: dict[str, Chip] = {
    # The documents give links in both directions together (v5e 400 GB/s) or one way in bits (1600 Gbps): the same.
    "v4": _tpu("v4", 275, 30.75, 1_228, 300, 0, "TPU v4", ports=6),
    "v5e": _tpu("v5e", 197, 15.75, 819, 200, 3.1, "TPU v5 ?(lite|e)", ports=4),
    "v5p": _tpu("v5p", 459, 95.74, 2_765, 600, 6.25, "TPU v5p?", ports=6),
    "v6e": _tpu("v6e", 918, 31.25, 1_640, 400, 12.5, "TPU v6 ?(lite|e)", ports=4),
    # A chip is two devices: this is one of them, with half of all that a chip has. The libtpu of jax 0.10 crashes where
    # probabilities of attention are dropped in bfloat16 (stack overflow in its estimates of fused products).
    "tpu7x": _tpu("tpu7x", 1_153.5, 94.74, 3_690, 300, 6.25, "TPU7x", ports=6)._replace(
        name="TPU7x core", oldest_libtpu=(0, 0, 48)
    ),
    # Networks are those of a DGX of eight, 200 (A100) or 400 Gbit/s for each GPU: docs.nvidia.com/dgx, "Introduction".
    "a100": _gpu("A100 SXM", 312, 156, 85_100_068_864, 2_039, 300, 25, "NVIDIA A100-SXM4-80GB"),
    "h100": _gpu("H100 SXM", 989, 494.5, 84_942_979_072, 3_350, 450, 50, "NVIDIA H100 80GB HBM3"),
    "h200": _gpu("H200", 989, 494.5, 150_121_545_728, 4_800, 450, 50, "NVIDIA H200"),
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


def check_libtpu(device_kind: str) -> None:
    """Raises where the libtpu that pip has installed is too old for a chip."""
    chip = chip_of(device_kind)
    with suppress(PackageNotFoundError):
        if chip and chip.oldest_libtpu and tuple(map(int, re.findall(r"\d+", version("libtpu")))) < chip.oldest_libtpu:
            raise ConfigError(
                f"libtpu {version('libtpu')} crashes where it compiles for {device_kind}; it takes "
                f"{'.'.join(map(str, chip.oldest_libtpu))} or newer: pip install --upgrade 'jax[tpu]>=0.11.2'"
            )


def chip_of(device_kind: str) -> Chip | None:
    """The chip that JAX calls so; None for what is not in the table, such as CPUs."""
    return next((chip for chip in CHIPS.values() if re.fullmatch(chip.kind, device_kind)), None)
