"""How much memory a device has, where anybody knows, and whether something fits it."""

import json
import os
import socket
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from bertjax.chips import chip_of, gpu_share
from bertjax.train import hosts

GIB = 2**30
ROOT = Path("/")


class Machine(NamedTuple):
    """What a process knows of the memory where it runs, in bytes; 0: nothing."""

    name: str
    memory: int  # which all CPU devices of the machine share
    each: int  # of one of its devices, where these have a memory of their own


def machines() -> list[Machine]:
    """Those of several processes, by their number, which all call this together; of one alone nothing is asked."""
    if jax.process_count() == 1:
        return []
    return [Machine(*json.loads(text)) for text in hosts.gather(json.dumps(_here()))]


def device_memory(devices: Sequence[Any], known: Sequence[Machine] = ()) -> int | None:
    """Bytes of that one of the devices of a mesh which has least; None: nobody knows.

    `known` are the machines of all processes; without them there is this process alone.
    """
    first = devices[0]
    chip = chip_of(first.device_kind)
    if chip:
        return round(chip.memory * (gpu_share() if first.platform == "gpu" else 1.0))
    known = known or [_here()]
    if first.platform != "cpu":
        return min(machine.each for machine in known) or None
    sharing = Counter(known[device.process_index].name for device in devices)
    return min(machine.memory // sharing[machine.name] for machine in known if machine.name in sharing) or None


def fits(needed: float, available: int | None) -> bool | None:
    """None: nobody knows."""
    return None if available is None else needed <= available


def verdict(fitting: bool | None, needed: float, available: int | None) -> str:
    """In words, whether so many bytes fit."""
    if available is None:
        return f"whether it fits is not known: it needs {amount(needed)}, and the memory of a device is not known"
    if fitting:
        return f"fits: needs {amount(needed)} of {amount(available)}"
    return f"does NOT fit: needs {amount(needed)} of {amount(available)}, {amount(needed - available)} too many"


def amount(count: float) -> str:
    """Bytes as people read them."""
    return f"{count / GIB:,.2f} GiB" if count >= GIB else f"{count / 2**20:,.1f} MiB"


def _here() -> Machine:
    each = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", 0)
    return Machine(socket.gethostname(), machine_memory(), int(each))


def machine_memory() -> int:
    """Bytes that this machine, or a control group that this process is in, allows; 0 where the system does not say."""
    try:
        most = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 0
    return max(0, min([most, *_limits()]))


def _limits() -> list[int]:
    """Those of the control groups that this process is in, of both versions: of its own and of all that it is part of.

    In a container the path may be that outside, of which only the root is to be seen.
    """
    found = []
    for line in _read(ROOT / "proc/self/cgroup").splitlines():
        _, kinds, path = line.split(":", 2)
        if kinds and "memory" not in kinds.split(","):
            continue
        top, file = ("memory", "memory.limit_in_bytes") if kinds else ("", "memory.max")
        parts = Path(path).parts[1:]
        folders = [(ROOT / "sys/fs/cgroup" / top).joinpath(*parts[:n]) for n in range(len(parts) + 1)]
        found += [int(text) for folder in folders if (text := _read(folder / file).strip()).isdecimal()]
    return found


def _read(file: Path) -> str:
    """The text of a file, "" where there is none."""
    try:
        return file.read_text("utf-8")
    except OSError:
        return ""
