"""Who has come, while the processes of a run find each other.

jax waits for all and then aborts, in the same words whether a host was stopped, was never started or has another
address. What it does not tell its connections do: to process 0 there is one from each process that has come, and who
can reach process 0 has the right address.
"""

import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

from bertjax.errors import AGAIN, UserError
from bertjax.train.stop import REQUEST

LOOK = 1.0  # seconds between two looks
MOMENT = 0.05  # seconds in which such a look is over
VAIN = "the processes of this run did not find each other"
CONNECTED = "01"  # the state of a connection in /proc/net/tcp


class RollCall:
    """Ends this process where not all have come in time: with the code for "start me again" but for a wrong address."""

    def __init__(self, state: Any, *, seconds: int, own: str, cure: str, given: bool) -> None:  # noqa: ANN401 (of a private class)
        """`state` is jax's: it knows address, number and count once they are found; `own` says which process this is.

        `given` says that the address came from the user, not from a cluster, where process 0 may just be late.
        """
        self._state, self._seconds, self._own, self._cure, self._given = state, seconds, own, cure, given
        self._over = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def close(self) -> None:
        """All have come, or jax has said what is wrong."""
        self._over.set()

    def _run(self) -> None:
        end, reached, came = time.monotonic() + self._seconds, False, 0
        while not self._over.wait(min(LOOK, max(0.0, end - time.monotonic()))):
            address = self._state.coordinator_address or ""
            reached = reached or listens(address)
            if reached and self._state.process_id == 0:
                came = max(came, staying(int(address.rpartition(":")[2])))
            if time.monotonic() >= end:
                self._end(address, reached, came)

    def _end(self, address: str, reached: bool, came: int) -> NoReturn:
        """Left alone, jax would end it with no word on what to do."""
        nobody = "nobody answers" + (f" at {address}" if address else "")
        if not reached and self._given:
            print(f"bertjax{self._own}: {VAIN} ({nobody}); {self._cure}", file=sys.stderr, flush=True)
            os._exit(UserError.code)
        count, number = self._state.num_processes, self._state.process_id
        there = f"at most {came} of {count} processes have" if came else f"not all of {count} processes have"
        seen = f"{there} come" if reached else nobody
        what = f"process {number}: {seen} in {self._seconds} seconds: the others were stopped or never started"
        REQUEST.end(AGAIN, f"{what}; {self._cure}")


def listens(address: str) -> bool:
    """Whether somebody listens at HOST:PORT."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=LOOK).close()
    except (OSError, ValueError):
        return False
    return True


def connected(port: int) -> int:
    """Connections to a port of this machine; 0 where it does not say."""
    files = [Path(f"/proc/net/{name}") for name in ("tcp", "tcp6")]
    rows = [line.split() for file in files if file.is_file() for line in file.read_text("utf-8").splitlines()[1:]]
    return sum(row[3] == CONNECTED and int(row[1].rpartition(":")[2], 16) == port for row in rows)


def staying(port: int) -> int:
    """The same but for those that only look whether somebody answers."""
    before = connected(port)
    time.sleep(MOMENT)
    return min(before, connected(port))
