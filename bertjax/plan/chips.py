"""Chips by the names that topologies have: what one can do, as its maker says."""

import os
import re
from typing import Any, NamedTuple

import jax

from bertjax.errors import ConfigError, closest

GB, GIB, TERA = 1e9, 2**30, 1e12


class Chip(NamedTuple):
    """Peaks of one chip; bandwidths in bytes a second, those of links one way and all of them together; 0: unknown."""

    name: str
    flops: float  # bf16, a second
    memory: float  # bytes
    bandwidth: float  # of the memory
    links: float  # to the chips of the same slice
    network: float  # to other slices
    source: str


_DOCS = "https://cloud.google.com/tpu/docs/"
CHIPS: dict[str, Chip] = {
    # The documents give links in both directions together (v5e 400 GB/s) or one way in bits (1600 Gbps): the same.
    "v4": Chip("TPU v4", 275 * TERA, 32 * GIB, 1_228 * GB, 300 * GB, 0, _DOCS + "v4"),
    "v5e": Chip("TPU v5e", 197 * TERA, 16 * GIB, 819 * GB, 200 * GB, 3.1 * GB, _DOCS + "v5e"),
    "v5p": Chip("TPU v5p", 459 * TERA, 95 * GIB, 2_765 * GB, 600 * GB, 6.25 * GB, _DOCS + "v5p"),
    "v6e": Chip("TPU v6e", 918 * TERA, 32 * GIB, 1_640 * GB, 400 * GB, 12.5 * GB, _DOCS + "v6e"),
}
LOCAL = "local"
# libtpu is only asked to compile: it need not look for the host it is on, nor be alone on it.
QUIET = {
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
INSTALL = "pip install 'bertjax[tpu]'"


def devices_of(topology: str, slices: int) -> tuple[Chip | None, list[Any]]:
    """The chip and the devices of "v5e:16x16", described by libtpu; those of this machine for "local"."""
    if topology == LOCAL:
        return None, jax.devices()
    name, _, shape = topology.partition(":")
    if name not in CHIPS:
        raise ConfigError(f"--topology {topology}: chip {name!r}{closest(name, CHIPS)}; as v5e:16x16, or {LOCAL}")
    if not re.fullmatch(r"\d+(x\d+){1,2}", shape):
        raise ConfigError(f"--topology {topology}: after the chip comes its shape, as in v5e:16x16 or v4:4x4x8")
    return CHIPS[name], _described(name, shape, slices)


def _described(name: str, shape: str, slices: int) -> list[Any]:
    for variable, value in QUIET.items():
        os.environ.setdefault(variable, value)
    from jax.experimental import topologies

    sizes = [int(size) for size in shape.split("x")]
    sizes += [1] * (3 - len(sizes))
    options: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
    if sizes == [1, 1, 1]:
        options["chips_per_host_bounds"] = (1, 1, 1)
    if name == "v4":
        options["chip_config_name"] = "megacore"  # the two cores of a chip as one device, as JAX runs on them
    try:
        described = topologies.get_topology_desc(platform="tpu", topology_name=f"{name}:{shape}", **options)
    except Exception as error:  # whatever libtpu raises: it is not there, or it knows no such shape
        if not _has_libtpu():
            raise ConfigError(f"--topology {name}:{shape} is compiled for by libtpu: {INSTALL}") from None
        reason = str(error).splitlines()[0]
        raise ConfigError(f"--topology {name}:{shape}: {reason}") from None
    return list(described.devices)


def _has_libtpu() -> bool:
    from importlib.util import find_spec

    return find_spec("libtpu") is not None
