"""Several processes as one program, by jax.distributed: which of them this is, and what all of them agree on."""

import hashlib
import os
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from jax._src.distributed import global_state  # whose client holds the store; Orbax takes it from there as well
from jax.experimental import multihost_utils

from bertjax.errors import AGAIN, FAULT, AloneError, ConfigError, DevicesError, StorageError, UserError
from bertjax.lock import END_IT, SIGN, SILENT, held, holder
from bertjax.paths import as_path, remote
from bertjax.storage import known_error
from bertjax.train.cluster import LET_GO, HostsConfig, cluster, given, in_indexed_pod, unused_chips
from bertjax.train.log import answers, console
from bertjax.train.peers import Peers
from bertjax.train.rollcall import VAIN, RollCall
from bertjax.train.stop import REQUEST

LONGEST = 2_000  # bytes of a message from one process to the others
HEADROOM = 60  # seconds until jax gives up after we do
SEEN_WITHIN = 20.0  # seconds until a network file system shows on one host what another has written


class Told(UserError):
    """What another process has told; where that is started again, so must be this one."""

    def __init__(self, text: str, code: int) -> None:
        """`code` is that of the other one."""
        super().__init__(text)
        self.code = code


@dataclass
class Own:
    """Which of several processes this is."""

    number: int = -1  # as long as it is not known
    count: int = 1
    agreed: bool = True  # whether all of them know how this one ends
    peers: Peers | None = None

    def __str__(self) -> str:
        """For messages."""
        return f" (process {self.number} of {self.count})" if self.number >= 0 else ""


_own = Own()


def join(config: HostsConfig, *, writes: str = "") -> None:
    """Makes this process one of several where it is one; to be called before anything touches a device.

    Raises DevicesError where there are none to be had; for one that trains, and `writes` in a folder, also where JAX
    has gone on with the CPU.
    """
    _join(config, writes)
    try:
        devices = len(jax.devices())
    except Exception as error:  # jax raises RuntimeError and AssertionError
        raise DevicesError(f"jax gets no devices: {str(error)[:300] or type(error).__name__}; {LET_GO}") from error
    if writes and not os.environ.get("JAX_PLATFORMS") and (unused := unused_chips()):
        if unused.installed:
            raise DevicesError(f"{unused.what}, but JAX computes on the CPU; {unused.cure}")
        console.print(f"computes on the CPU, but {unused.what}: {unused.cure}")
    if jax.process_count() > 1:
        console.print(f"{jax.process_count()} processes, {devices} devices")


def _join(config: HostsConfig, writes: str) -> None:
    if jax.distributed.is_initialized():
        return
    found = cluster()
    address, count, number = given(config, found)
    if not (count or found) and in_indexed_pod():
        console.print(
            "a pod of an indexed job runs alone: pip install 'jax[k8s]', or set JAX_NUM_PROCESSES and the like"
        )
    if count == 1 or not (count or found):
        return
    if writes:
        _await_end(as_path(writes), max(config.start_timeout, SILENT + SIGN))
    whole = bool(address and count and number >= 0)
    if whole:
        _own.number, _own.count = number, count
    _own.agreed = False
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM from us
    own_number = ", each with a --hosts.process of its own," if config.process >= 0 else ""
    cure = (
        f"start the same command on every host{own_number} (gcloud: --worker=all; Slurm: srun) within "
        f"--hosts.start-timeout={config.start_timeout} seconds, or give --hosts.processes 1 to run this one alone"
    )
    by_hand = bool(config.coordinator)  # an address in the environment is that of a cluster
    roll_call = RollCall(global_state, seconds=config.start_timeout, own=str(_own), cure=cure, given=by_hand)
    try:
        jax.distributed.initialize(
            address or None,
            count or None,
            number if number >= 0 else None,
            cluster_detection_method="deactivate" if whole else None,
            initialization_timeout=config.start_timeout + HEADROOM,
            heartbeat_timeout_seconds=2 * config.heartbeat,  # ours comes first
            shutdown_timeout_seconds=config.start_timeout,
        )
    except Exception as error:  # jax raises many kinds, those of gRPC, HTTP and the cluster's library among them
        why = f"{type(error).__name__}: {str(error)[:300]}"
        raise (ConfigError if by_hand else AloneError)(f"{VAIN} ({why}); {cure}") from error
    finally:
        roll_call.close()
    _own.number, _own.count = global_state.process_id, global_state.num_processes
    if _own.count > 1:  # before devices are begun with, which may take one longer than another
        _own.peers = Peers(global_state.client, _own.number, _own.count, config.heartbeat)
        REQUEST.due, REQUEST.tells = _own.peers.due, _own.number == 0
        told = _own.peers.told("count", str(_own.count))
        if told != str(_own.count):
            raise ConfigError(f"of {_own.count} processes, process 0 of {told}; give all the same --hosts.processes")
    _own.agreed = _own.count == 1
    console.quiet = answers.quiet = _own.number != 0


def _await_end(run: Path, seconds: float) -> None:
    """Returns when nobody writes in a folder: who came to the processes of a run as one of them would end it.

    It may be this run itself, of which one process was started again before the others know that it was lost; or a
    machine that is lost has left its lock, which is known to be dead after SILENT seconds.
    """
    end, told = time.monotonic() + seconds, False
    with suppress(OSError):  # what is wrong with the folder is told by who writes in it
        while writer := writer_of(run):
            if not told:
                console.print(f"{run} is being written by {writer}: waits up to {seconds:.0f} s for its end")
            told = True
            if time.monotonic() > end:
                raise ConfigError(f"{run} is being written by {writer}; {END_IT}")
            time.sleep(1)


def several() -> bool:
    """Whether this is one of several processes."""
    return _own.count > 1


def first() -> bool:
    """Whether this is the process that writes files and talks."""
    return jax.process_index() == 0


def meet(name: str) -> None:
    """Returns when all processes have come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


@contextmanager
def together() -> Iterator[list[str]]:
    """All processes do what is inside, each for itself; an error of one ends them all, and is told once.

    What is added to the list must be the same everywhere.
    """
    facts: list[str] = []
    if jax.process_count() == 1:
        yield facts
        return
    error: Exception | None = None
    try:
        yield facts
    except Exception as raised:
        error = raised
    seen = hashlib.sha256("\0".join(facts).encode()).hexdigest()
    said = gather(_failure(error) if error else f"={seen}")
    number = next((i for i, text in enumerate(said) if text[0] != "="), None)
    if number is None:
        number = next((i for i, text in enumerate(said) if text != said[0]), None)
        if number is None:
            return
        what = "it has another configuration, other data or other checkpoints before it than process 0; " + SAME
        code = ConfigError.code
    else:
        ends_with, _, what = said[number].partition(" ")
        code = int(ends_with)
    _own.agreed = True
    if error:
        raise error
    raise Told(f"process {number} of {len(said)} stops all: {what}", code)


def _failure(error: Exception) -> str:
    """What a process that has met an error ends with, and what it was."""
    known = error if isinstance(error, UserError) else known_error(error)
    return f"{known.code if known else FAULT} {type(error).__name__}: {known or error}"


SAME = "give every process the same command, and a --out folder that all of them see"


def check_shared(folder: Path) -> None:
    """Makes the folder, and raises where not all of several processes see it; one alone does nothing."""
    if jax.process_count() == 1:
        return
    marker = folder / f".shared-{gather(secrets.token_hex(8))[0]}"
    try:
        with together():
            if first():
                folder.mkdir(parents=True, exist_ok=True)
                marker.touch()
        with together():
            end = time.monotonic() + SEEN_WITHIN
            while not marker.exists():
                if time.monotonic() > end:
                    raise ConfigError(
                        f"{folder} here is not the folder of process 0: checkpoints are written by all processes "
                        "together; give --out on a file system that they share"
                    )
                time.sleep(0.2)
    finally:
        if first():
            with suppress(Exception):  # a bucket raises many kinds; `doctor` tells of what is left
                marker.unlink(missing_ok=True)


def writer_of(folder: Path) -> str:
    """Who writes in a folder; "" for nobody."""
    if remote(folder):
        from bertjax import bucket_lock

        return bucket_lock.holder(folder)
    return holder(folder)


def _held(folder: Path) -> AbstractContextManager[None]:
    if remote(folder):
        from bertjax import bucket_lock

        return bucket_lock.held(folder)
    return held(folder)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """All processes write in a folder that all of them see, and nobody else does."""
    check_shared(folder)
    with ExitStack() as stack:
        with together():
            if first():
                stack.enter_context(_held(folder))
        yield


def gather(text: str) -> list[str]:
    """A text of every process, cut to LONGEST bytes."""
    here = np.zeros(LONGEST, np.uint8)
    data = np.frombuffer(text.encode()[:LONGEST], np.uint8)
    here[: len(data)] = data
    return [row.tobytes().rstrip(b"\0").decode(errors="ignore") for row in multihost_utils.process_allgather(here)]


def whose() -> str:
    """Which of several processes this is, for a message that not all agreed on; else nothing."""
    return "" if _own.agreed else str(_own)


def tells() -> bool:
    """Whether messages are this process's to tell: where all agree, process 0 tells them."""
    return not _own.agreed or _own.number <= 0


def stopped_together() -> None:
    """All processes stop here, and know it."""
    _own.agreed = True


def await_cause(error: Exception) -> None:
    """Where an error of a collective comes of a lost process, this one ends in here, and says that."""
    if _own.peers and isinstance(error, jax.errors.JaxRuntimeError):
        _own.peers.await_verdict()


def leave(code: int) -> None:
    """Ends the process at once, and the others with it, where these do not know why it does.

    The orderly end, which jax arranges, waits for all: not for those that wait for this one.
    """
    if _own.peers and (code in (FAULT, StorageError.code) or (code == AGAIN and not _own.agreed)):
        _own.peers.await_verdict()
    if code and not _own.agreed:
        if _own.peers:
            _own.peers.leave(code)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
