"""What this machine and its environment say: which of several processes this is, and which chips it could use."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import jax
from jax._src import xla_bridge

from bertjax.errors import ConfigError

TPU_LOCK = Path("/tmp/libtpu_lockfile")


@dataclass(frozen=True)
class HostsConfig:
    """Which of several processes this is. TPU pods and srun say it themselves, mpirun all but the coordinator."""

    coordinator: str = ""
    """HOST:PORT of process 0; without it JAX_COORDINATOR_ADDRESS"""
    processes: int = 0
    """how many there are; without it JAX_NUM_PROCESSES. 1: this one alone, wherever it runs"""
    process: int = -1
    """the number of this one, from 0; without it JAX_PROCESS_ID"""
    start_timeout: int = 120
    """seconds that processes wait for each other to start and to end"""
    heartbeat: int = 30
    """seconds without a sign of life after which a process counts as lost, and the others stop"""

    def __post_init__(self) -> None:
        if min(self.start_timeout, self.heartbeat) < 1:
            raise ConfigError(f"hosts.start_timeout={self.start_timeout} and heartbeat={self.heartbeat}: at least 1")


class Plugin(NamedTuple):
    """What JAX uses a kind of chip with; `devices` are the files by which a machine shows that it has some."""

    chip: str
    backend: str  # as JAX calls it
    devices: tuple[str, ...]
    package: str
    install: str


PLUGINS = (
    Plugin("TPU", "tpu", ("/dev/accel0", "/dev/vfio/0"), "libtpu", "pip install 'bertjax[tpu]'"),
    Plugin(
        "GPU",
        "cuda",
        ("/dev/nvidia0",),
        "jax_plugins",
        "pip install 'bertjax[cuda]', or 'bertjax[cuda12]' where the driver is older than 580",
    ),
)
LET_GO = (
    f"end what else uses them (sudo lsof -w /dev/accel* /dev/vfio/* /dev/nvidia*) and sudo rm -f {TPU_LOCK}, "
    "or set JAX_PLATFORMS=cpu"
)


class Unused(NamedTuple):
    """What to say where the machine has chips and jax computes on its CPU, the cure, and whether JAX could use them."""

    what: str
    cure: str
    installed: bool


def unused_chips() -> Unused | None:
    """The chips of this machine, where jax computes on its CPU; None where it has none, or jax uses them.

    Where they are in use, or their driver is too old, jax falls back to the CPU with a line in its log at most.
    """
    plugin = next((plugin for plugin in PLUGINS if any(Path(path).exists() for path in plugin.devices)), None)
    if not plugin or jax.devices()[0].platform != "cpu":
        return None
    what = f"the machine has a {plugin.chip}"
    if not find_spec(plugin.package):
        return Unused(what, plugin.install, installed=False)
    why = getattr(xla_bridge, "_backend_errors", {}).get(plugin.backend, "")
    return Unused(f"{what} ({why[:300]})" if why else what, f"{LET_GO}; or {plugin.install}", installed=True)


def given(config: HostsConfig, found: str = "") -> tuple[str, int, int]:
    """Coordinator, number of processes and number of this one, as far as options and environment say.

    `found` is what `cluster` has found.
    """
    address = config.coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS", "")
    counts, numbers = ["JAX_NUM_PROCESSES"], ["JAX_PROCESS_ID"]
    if not found:  # what mpirun sets, of which jax knows Open MPI 4 alone
        counts += ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE"]
        numbers += ["OMPI_COMM_WORLD_RANK", "PMI_RANK"]
    count = config.processes or _number(counts, 0)
    number = config.process if config.process >= 0 else _number(numbers, -1)
    if count == 1:
        return "", 1, 0
    missing = [
        option
        for option, there in (
            ("--hosts.coordinator or JAX_COORDINATOR_ADDRESS", ":" in address),
            ("--hosts.processes or JAX_NUM_PROCESSES", count > 1),
            ("--hosts.process or JAX_PROCESS_ID (from 0, below the number of processes)", 0 <= number < (count or 1)),
        )
        if not there
    ]
    if missing and (count or number >= 0 or address) and not found:
        raise ConfigError(f"one of several processes, but without {'; '.join(missing)}: give them, or none of them")
    return address, count, number


def _number(names: Sequence[str], default: int) -> int:
    """The first of these variables of the environment that is set."""
    name = next((name for name in names if os.environ.get(name)), "")
    text = os.environ.get(name) or str(default)
    if not text.lstrip("-").isdigit():
        raise ConfigError(f"{name}={text!r} in the environment is not a number; mend or unset it")
    return int(text)


def cluster() -> str:
    """What jax.distributed would find more than one process by, from the environment alone; "" for nothing.

    A shell inside an allocation of Slurm (`salloc`, `sbatch` without `srun`) is one process, whatever the allocation.
    """
    here = os.environ
    if {"SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID"} <= here.keys():
        tasks = here.get("SLURM_STEP_NUM_TASKS", here["SLURM_NTASKS"])
        return "slurm" if min(int(tasks), int(here["SLURM_NTASKS"])) > 1 else ""
    if "OMPI_MCA_orte_hnp_uri" in here:
        return "ompi" if int(here.get("OMPI_COMM_WORLD_SIZE", "1")) > 1 else ""
    if "tpu" in (jax.config.jax_platforms or "").split(","):  # type: ignore[attr-defined]
        workers = here.get("TPU_PROCESS_ADDRESSES") or here.get("TPU_WORKER_HOSTNAMES") or ""
        if workers:
            return "tpu" if "," in workers or int(here.get("MEGASCALE_NUM_SLICES") or 1) > 1 else ""
        return "" if here.get("TPU_SKIP_MDS_QUERY") else "tpu"  # only Google's metadata server knows
    return "kubernetes" if in_indexed_pod() and find_spec("kubernetes") else ""


def in_indexed_pod() -> bool:
    """Whether this is a pod of an indexed job of Kubernetes, which finds the others by a library of its own."""
    return {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= os.environ.keys()
