"""Chips that are not here: TPUs as libtpu describes them, GPUs as they are described to XLA."""

import math
import os
import re
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import permutations
from typing import Any, NamedTuple

import jax

from bertjax.chips import CHIPS, Chip, chip_of
from bertjax.errors import ConfigError, closest

LOCAL = "local"
# libtpu is only asked to compile: it need not look for the host it is on, nor be alone on it.
QUIET = {
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
MOST_GPUS = 8  # on the links of one host
MOST = 65_536  # chips in all, of which each is described to the compiler


class Pod(NamedTuple):
    """The shapes that slices of a TPU come in."""

    shapes: tuple[str, ...]
    most: int = 0  # chips of a slice whose three sides are multiples of 4, the longest last; 0: there are none


FLAT = Pod(("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"))
SMALL = ("2x2x1", "2x2x2", "2x2x4", "2x4x4")
PODS = {  # as `Chip.source` tells
    "v4": Pod(SMALL, 4_096),
    "v5e": FLAT,
    "v5p": Pod(SMALL, 6_144),
    "v6e": FLAT,
    "tpu7x": Pod(("1x1x1", *SMALL), 9_216),
}
CUBE, FULL = 4, 16  # of three dimensions, slices of whole cubes are rings in all; of two, a side of a full pod is one


class Gpu(NamedTuple):
    """What XLA would ask the driver of a GPU, besides what `CHIPS` says; memory in bytes."""

    kind: str  # as JAX calls it
    capability: int  # of CUDA, its first number
    cores: int
    units: int  # for float32, of a core
    ghz: float
    cache: int  # shared by all cores
    shared: int  # memory of a core
    block: int  # what a block may take of it


GPUS = {  # https://docs.nvidia.com/cuda/cuda-programming-guide, "Compute Capabilities", and the data sheets
    "a100": Gpu("NVIDIA A100-SXM4-80GB", 8, 108, 64, 1.41, 40 << 20, 164 << 10, 163 << 10),
    "h100": Gpu("NVIDIA H100 80GB HBM3", 9, 132, 128, 1.98, 50 << 20, 228 << 10, 227 << 10),
    "h200": Gpu("NVIDIA H200", 9, 132, 128, 1.98, 50 << 20, 228 << 10, 227 << 10),
}


def devices_of(topology: str, slices: int) -> tuple[Chip | None, list[Any]]:
    """The chip and the devices of "v5e:16x16" or "h100:8"; those of this machine for "local"."""
    if topology == LOCAL:
        devices = jax.devices()
        return chip_of(devices[0].device_kind), devices
    name, _, shape = topology.partition(":")
    if name not in CHIPS:
        raise ConfigError(f"--topology {topology}: chip {name!r}{closest(name, CHIPS)}; as v5e:16x16, or {LOCAL}")
    wrong = _wrong(name, shape)
    if wrong:
        raise ConfigError(f"--topology {topology}: {wrong}")
    each, slices = math.prod(map(int, shape.split("x"))), max(1, slices)
    if each * slices > MOST:
        raise ConfigError(f"--mesh.dcn {slices}: {slices:,} times {topology} is {each * slices:,} chips, over {MOST:,}")
    if name in GPUS:
        return CHIPS[name], _gpus(name, slices, each)
    return CHIPS[name], _tpus(name, shape, slices)


def links_of(group: Sequence[int], devices: Sequence[Any]) -> float:
    """About how many of a chip's links those of a mesh with these numbers can use at once; 0: all, or it is not known.

    One in each dimension of a torus in which they differ, two where they are a ring around it; of what others between
    them need too, a part.
    """
    chip = chip_of(devices[0].device_kind)
    if not chip or not chip.ports:
        return 0.0
    sides = [max(places) + 1 for places in zip(*(device.coords for device in devices), strict=True)]
    found = 0.0
    for side, places in zip(sides, zip(*(devices[i].coords for i in group), strict=True), strict=True):
        if several := len(set(places)) - 1:
            apart = (max(places) - min(places)) / several
            rings = min(sides) >= CUBE if chip.ports == 6 else side == FULL
            found += (2 if rings and several * apart + apart == side else 1) / apart
    return found


def _wrong(name: str, shape: str) -> str:
    """What is to be said of a shape that a chip does not come in: libtpu ends the process at some, and plans others."""
    if name in GPUS:
        known = re.fullmatch(r"[1-9]", shape) and int(shape) <= MOST_GPUS
        told = f"how many a host has, 1 to {MOST_GPUS}, as in {name}:8; several hosts are --mesh.dcn N"
        return "" if known else f"after the GPU comes {told}"
    pod = PODS[name]
    if _comes(pod, shape):
        return ""
    sides = shape.split("x")
    orders = map("x".join, permutations(sides)) if len(sides) <= 3 else ()
    meant = next((f"; did you mean {name}:{order}?" for order in orders if _comes(pod, order)), "")
    larger = f", and in multiples of {CUBE} like 4x4x8, the longest last, up to {pod.most:,} chips" if pod.most else ""
    return f"{name} comes as {', '.join(pod.shapes)}{larger}; several slices are --mesh.dcn N{meant}"


def _comes(pod: Pod, shape: str) -> bool:
    sides = [int(side) for side in shape.split("x")] if re.fullmatch(r"[1-9]\d{0,3}(x[1-9]\d{0,3}){2}", shape) else []
    cubes = bool(sides) and sides == sorted(sides) and not any(side % CUBE for side in sides)
    return shape in pod.shapes or (cubes and math.prod(sides) <= pod.most)


def _tpus(name: str, shape: str, slices: int) -> list[Any]:
    for variable, value in QUIET.items():
        os.environ.setdefault(variable, value)
    sizes = [int(size) for size in shape.split("x")]
    sizes += [1] * (3 - len(sizes))
    options: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
    if sizes == [1, 1, 1]:
        options["chips_per_host_bounds"] = (1, 1, 1)
    if name == "v4":
        options["chip_config_name"] = "megacore"  # the two cores of a chip as one device, as JAX runs on them
    return _described("tpu", f"{name}:{shape}", f"{name}:{shape}", options)


def _gpus(name: str, hosts: int, each: int) -> list[Any]:
    options = {"target_config": described_gpu(name), "topology": f"{hosts}x1x{each}"}
    return _described("cuda", f"{name}:{each}", name, options)


def described_gpu(name: str) -> str:
    """XLA's GpuTargetConfigProto of a GPU, as text. The last lines of `gpu_device_info` all GPUs since Ampere share."""
    gpu, chip = GPUS[name], CHIPS[name]
    return f"""
        gpu_device_info {{
            cuda_compute_capability {{ major: {gpu.capability} }}
            core_count: {gpu.cores} fpus_per_core: {gpu.units} clock_rate_ghz: {gpu.ghz}
            device_memory_size: {chip.memory:.0f} memory_bandwidth: {chip.bandwidth:.0f} l2_cache_size: {gpu.cache}
            shared_memory_per_core: {gpu.shared} shared_memory_per_block_optin: {gpu.block}
            shared_memory_per_block: {48 << 10} registers_per_core_limit: {1 << 16} registers_per_block_limit: {1 << 16}
            threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
            block_dim_limit_x: {2**31 - 1} block_dim_limit_y: {2**16 - 1} block_dim_limit_z: {2**16 - 1}
        }}
        platform_name: "CUDA"
        runtime_version {{ major: 13 }}
        dnn_version_info {{ major: 9 minor: 10 }}
        device_description_str: "{gpu.kind}"
    """


# By platform: what has the compiler, in which packages, and how it is installed.
COMPILERS = {
    "tpu": ("libtpu", ("libtpu",), "pip install 'bertjax[tpu]'"),
    "cuda": ("JAX's plugin for CUDA", ("jax_cuda13_plugin", "jax_cuda12_plugin"), "pip install 'bertjax[cuda]'"),
}


def _described(platform: str, topology: str, name: str, options: dict[str, Any]) -> list[Any]:
    from jax.experimental import topologies

    try:
        described = topologies.get_topology_desc(platform=platform, topology_name=name, **options)
    except Exception as error:  # whatever the compiler raises: it is not there, or it knows no such shape
        compiler, packages, install = COMPILERS[platform]
        if not any(map(find_spec, packages)):
            raise ConfigError(f"--topology {topology} is compiled for by {compiler}: {install}") from None
        reason = str(error).splitlines()[0]
        raise ConfigError(f"--topology {topology}: {reason}") from None
    return list(described.devices)
