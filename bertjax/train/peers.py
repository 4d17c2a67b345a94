"""The other processes of a run, by the store that jax.distributed keeps: when all stop."""

import atexit
import threading
from typing import Any

from bertjax.train.stop import REQUEST

EVERY = 0.25  # seconds between two looks at the store
FOLDER = "bertjax/"


class Peers:
    """Tells the other processes that one of them is asked to stop, and after which step all do.

    Each says how many steps it has begun to ask about and waits there until all have said so: they stop after the step
    that comes next to the furthest of them.
    """

    def __init__(self, client: Any, number: int, count: int) -> None:  # noqa: ANN401 (jax's DistributedRuntimeClient)
        """`client` is connected; this process is `number` of `count`."""
        self._client, self._number, self._count = client, number, count
        self._asked = 0  # how often, after a step
        self._last = -1  # the step to stop after, as such a number
        self._agreeing = False
        self._changed = threading.Condition()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        atexit.register(self.close)  # before jax lets go of the client

    def close(self) -> None:
        """No more looks at the store."""
        self._over.set()
        self._thread.join(timeout=5)

    def due(self) -> bool:
        """Whether all stop after this step; to be called by each of them once after every step."""
        with self._changed:
            self._asked += 1
            self._changed.wait_for(lambda: not self._agreeing)
            return self._asked == self._last

    def _run(self) -> None:
        while not self._over.wait(EVERY):
            try:
                store = dict(self._client.key_value_dir_get(FOLDER))
            except Exception:  # jax raises what gRPC says: process 0 is gone
                return
            self._look({name.removeprefix(FOLDER): text for name, text in store.items()})

    def _look(self, store: dict[str, str]) -> None:
        """One look, and what follows from it."""
        if REQUEST.name and "stop" not in store:
            self._say("stop", REQUEST.name)
        elif "stop" in store and f"at/{self._number}" not in store:
            REQUEST.ask(store["stop"])
            with self._changed:
                self._agreeing = True
                self._say(f"at/{self._number}", str(self._asked))
        elif self._agreeing and all(f"at/{i}" in store for i in range(self._count)):
            with self._changed:
                self._last = 1 + max(int(store[f"at/{i}"]) for i in range(self._count))
                self._agreeing = False
                self._changed.notify_all()

    def _say(self, name: str, text: str) -> None:
        self._client.key_value_set(FOLDER + name, text, allow_overwrite=True)
