"""Chips that are not here, as libtpu describes them."""

import math
import os
import re
from typing import Any

import jax

from bertjax.chips import CHIPS, Chip
from bertjax.errors import ConfigError, closest

LOCAL = "local"
# libtpu is only asked to compile: it need not look for the host it is on, nor be alone on it.
QUIET = {
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
MOST = 8_960  # of v5p
INSTALL = "pip install 'bertjax[tpu]'"


def devices_of(topology: str, slices: int) -> tuple[Chip | None, list[Any]]:
    """The chip and the devices of "v5e:16x16", described by libtpu; those of this machine for "local"."""
    if topology == LOCAL:
        return None, jax.devices()
    name, _, shape = topology.partition(":")
    tpus = [known for known in CHIPS if known.startswith("v")]
    if name not in tpus:
        raise ConfigError(f"--topology {topology}: chip {name!r}{closest(name, tpus)}; as v5e:16x16, or {LOCAL}")
    if not re.fullmatch(r"\d+(x\d+){1,2}", shape):
        raise ConfigError(f"--topology {topology}: after the chip comes its shape, as in v5e:16x16 or v4:4x4x8")
    if math.prod(int(size) for size in shape.split("x")) > MOST:
        raise ConfigError(f"--topology {topology}: no pod has over {MOST:,} chips; several slices are --mesh.dcn N")
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
