"""The other processes of a run, by the store that jax.distributed keeps: when all stop, and which of them is lost."""

import atexit
import ctypes
import signal
import threading
import time
from contextlib import suppress
from typing import Any, NoReturn

from bertjax.errors import AGAIN
from bertjax.train.stop import REQUEST, within

LOOK = 0.25  # seconds between two looks at the store
FOLDER = "bertjax/"
SOON = 60  # seconds within which process 0 says what the others ask for
QUICKLY = 8  # looks without a sign of life that are enough where jax has seen it too


class Peers:
    """Tells the other processes that one of them is asked to stop, after which step all do, and who is lost.

    To stop, each says how many steps it has asked about and waits there until all have said so: they stop after the
    step that comes next to the furthest of them. A process gives a sign of life with every look it takes; one that gave
    none for `heartbeat` seconds is lost, and the others end, as they do where one says that it leaves.
    """

    def __init__(self, client: Any, number: int, count: int, heartbeat: int) -> None:  # noqa: ANN401 (a client of jax's)
        """`client` is connected; this process is `number` of `count`."""
        self._client, self._number, self._count = client, number, count
        self._wait = LOOK * max(1.0, count / 32)  # all ask process 0
        self._patience = max(2, round(heartbeat / self._wait))  # looks: time that this process slept does not count
        others = (i for i in range(count) if i != number)
        self._seen: dict[int, tuple[str, int]] = {i: ("", 0) for i in others}  # sign of life, looks since it came
        self._asked = 0  # how often, after a step
        self._last = -1  # the step to stop after, as such a number
        self._agreeing = self._leaving = self._judged = False
        self._changed = threading.Condition()
        self._over = threading.Event()
        self._looks, self._store = 0, dict[str, str]()
        self._threads = [threading.Thread(target=act, daemon=True) for act in (self._run, self._count_signs)]
        for thread in self._threads:
            thread.start()
        atexit.register(self.close)  # before jax lets go of the client
        self._outlive_jax()

    def close(self) -> None:
        """No more looks at the store; the others know that there will be none."""
        self._over.set()
        for thread in self._threads:
            thread.join(timeout=5)
        self._try_to_say(f"beat/{self._number}", "over")

    def leave(self, code: int) -> None:
        """The others end with the same exit code, at once; they would wait for this process, and then be started again
        without it. Returns when they have had time to see it, to say so and to end, before their connections break.
        """
        self._leaving = True
        if self._number == 0:  # all end with it: first those that have the same error tell it
            time.sleep(2)
        within(1, lambda: self._try_to_say(f"left/{self._number}", str(code)))
        time.sleep(2 + 4 * self._wait)

    def told(self, name: str, text: str) -> str:
        """What process 0 says under this name, which is the text where this is process 0."""
        if self._number == 0:
            self._say(name, text)
        return str(self._client.blocking_key_value_get(FOLDER + name, 1_000 * SOON))

    def due(self) -> bool:
        """Whether all stop after this step; to be called by each of them once after every step."""
        with self._changed:
            self._asked += 1
            self._changed.wait_for(lambda: not self._agreeing)
            return self._asked == self._last

    def await_verdict(self) -> None:
        """What went wrong here may come of a lost process: where one is, this one ends in here, else it returns."""
        if not self._judged:
            time.sleep((self._patience + 8) * self._wait)
        self._judged = True

    def _run(self) -> None:
        while not self._over.wait(self._wait):
            self._looks += 1
            with suppress(Exception):  # jax raises what gRPC says: who counts will see that nothing came of it
                self._say(f"beat/{self._number}", str(self._looks))
                store = dict(self._client.key_value_dir_get(FOLDER))
                self._store = {name.removeprefix(FOLDER): text for name, text in store.items()}
                self._look(self._store)

    def _count_signs(self) -> None:
        """Apart from the looks, as one at the store of a process that is lost does not return."""
        seen, silent = self._store, 0
        while not self._over.wait(self._wait):
            if self._leaving:
                continue
            fresh = self._store is not seen
            seen, silent = self._store, 0 if fresh else silent + 1
            if silent >= self._patience:
                self._end(0)  # who keeps the store; nothing can be written either
            if fresh:
                self._find_lost(seen)

    def _look(self, store: dict[str, str]) -> None:
        """What follows for the end of the run from what is in the store."""
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

    def _find_lost(self, store: dict[str, str]) -> None:
        """Ends this process where another has left or gives no more signs of life, or where somebody has seen that."""
        for number in self._seen:
            if code := store.get(f"left/{number}"):
                self._end(number, int(code))
        for number, (before, looks) in self._seen.items():
            now = store.get(f"beat/{number}", "")
            self._seen[number] = (now, 0 if now != before or now == "over" else looks + 1)
        stale = [number for number, (_, looks) in self._seen.items() if looks >= self._patience]
        if "lost" in store:
            self._end(int(store["lost"]))
        elif stale:
            within(1, lambda: self._try_to_say("lost", str(stale[0])))
            self._end(stale[0])

    def _end(self, lost: int, code: int | None = None) -> NoReturn:
        """Ends this process, with the code of the one that has left; one of those that are there yet says why."""
        REQUEST.tells = self._number == 0 or (lost == 0 and self._number == 1 and not REQUEST.name)
        what = "is lost" if code is None else f"has ended with exit code {code}"
        REQUEST.end(AGAIN if code is None else code, f"process {lost} of {self._count} {what}, and so this run ends")

    def _say(self, name: str, text: str) -> None:
        self._client.key_value_set(FOLDER + name, text, allow_overwrite=True)

    def _try_to_say(self, name: str, text: str) -> None:
        with suppress(Exception):  # process 0 may have gone before
            self._say(name, text)

    def _outlive_jax(self) -> None:
        """jax aborts the process at once where process 0 is lost: not before we have said so.

        Its callback for that cannot be given from Python (std::bad_cast in 0.10.2), so it is the abort that waits.
        """
        library = ctypes.CDLL(None)

        def aborted(number: int) -> None:
            self._patience = min(self._patience, QUICKLY)
            self.await_verdict()
            library.signal(signal.SIGABRT, None)  # as it was: on return the process dies of it

        self._handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(aborted)  # kept as long as it may be called
        library.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
        library.signal(signal.SIGABRT, ctypes.cast(self._handler, ctypes.c_void_p))
