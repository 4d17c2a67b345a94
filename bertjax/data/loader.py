"""Batches by position: what comes next is a pure function of (epoch, window, batch, step), never of workers or history.

A source knows how many batches each window of an epoch has and makes any of them; a loader walks forward from a
position. So a run's state in the data is four integers for each source, a restart costs nothing, and worker processes
and hosts may differ in number from one run to the next.
"""

from __future__ import annotations

import bisect
import errno
import re
import signal
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from bertjax.data.mixture import Mixture, Places
from bertjax.data.parallel import DIED, end_with_parent, leave_signals_to_parent
from bertjax.data.rows import HostBatch
from bertjax.data.sources import Position, Source
from bertjax.errors import ConfigError, LostWorker, StorageError

FULL = (
    "/dev/shm is full, through which worker processes hand batches on; make room there (of a container: a larger "
    "--shm-size) or give --workers 0, then give the same command again"
)
ENDLESS = 1 << 40  # Grain wants a length; no run has as many batches or epochs


class _Batches:
    """The batches from `start` on, by index: what Grain reads. A batch brings the positions of the one after it."""

    def __init__(self, mixture: Mixture, start: Places, epochs: int, rows: np.ndarray | None) -> None:
        self.mixture, self.epochs, self.rows = mixture, epochs, rows
        self._walks = [_Walk(source, at, epochs) for source, at in zip(mixture.sources, start, strict=True)]

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        end_with_parent()
        leave_signals_to_parent()

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> dict[str, Any]:
        here, following = zip(*(walk.at(index) for walk in self._walks), strict=True)
        if any(position.epoch >= self.epochs for position in here):
            return {"batch": {}, "next": np.array(here)}
        return {"batch": self.mixture.batch(here, self.rows), "next": np.array(following)}


class _Walk:
    """The positions in a source from `start` on, by index."""

    def __init__(self, source: Source, start: Position, epochs: int) -> None:
        self.source, self.epochs = source, epochs
        self._firsts = [0]  # index of the first batch of each window walked so far
        self._windows = [start]
        self._step = start.step

    def at(self, index: int) -> tuple[Position, Position]:
        """The position of a batch and of the one after it."""
        position = self._locate(index)._replace(step=self._step + index)
        if position.epoch >= self.epochs:
            return position, position
        following = position._replace(batch=position.batch + 1)
        if following.batch >= self.source.batches(position.epoch, position.window):
            following = self._next_window(position)
        return position, following._replace(step=position.step + 1)

    def _next_window(self, at: Position) -> Position:
        last = at.window + 1 == self.source.windows
        return Position(at.epoch + 1, 0, 0) if last else Position(at.epoch, at.window + 1, 0)

    def _locate(self, index: int) -> Position:
        """The position `index` batches after the start; finds the sizes of windows as it reaches them."""
        while (at := self._windows[-1]).epoch < self.epochs:
            behind = self._firsts[-1] + max(0, self.source.batches(at.epoch, at.window) - at.batch)
            if index < behind:
                break
            self._firsts.append(behind)
            self._windows.append(self._next_window(at))
            if len(self._firsts) > self.source.windows + 2 and self._firsts[-self.source.windows - 2] == behind:
                raise ConfigError("a whole epoch of this data does not fill one batch; lower the batch size")
        place = bisect.bisect_right(self._firsts, index) - 1
        first, at = self._firsts[place], self._windows[place]
        return at._replace(batch=at.batch + index - first)


class Loader:
    """Iterator over a mixture's batches from `start`, made ahead of time by `workers` processes (0: one thread).

    `places` are those of the next batch to come: a loader started there goes on with the identical stream, whatever
    its number of workers. Of each batch only `rows` i64[b] are made, without them all: so hosts share a batch. The
    stream ends with the first source that has given its `epochs`, without them never. Call `close` when done early.
    """

    def __init__(
        self,
        mixture: Mixture,
        start: Places | None = None,
        *,
        rows: np.ndarray | None = None,
        workers: int = 0,
        epochs: int | None = None,
    ) -> None:
        self.places = start or mixture.start()
        batches = _Batches(mixture, self.places, ENDLESS if epochs is None else epochs, rows)
        self._workers = workers
        with _told(workers):
            self._open = [_open(batches, workers)]
        # Grain's processes must be gone before the interpreter takes its modules apart.
        self._finish = weakref.finalize(self, _close, self._open)

    def __iter__(self) -> Iterator[HostBatch]:
        return self

    def __next__(self) -> HostBatch:
        if not self._open:
            raise StopIteration
        with _told(self._workers):
            item = next(self._open[0])
        self.places = tuple(Position(*place) for place in item["next"].tolist())
        if not item["batch"]:
            self.close()
            raise StopIteration
        # Copies, as what workers send lies in shared memory that lives no longer than they do.
        return {name: np.array(array) for name, array in item["batch"].items()}

    def close(self) -> None:
        """Stop the workers and free what was made ahead; no batch comes after it."""
        self._finish()


@contextmanager
def _told(workers: int) -> Iterator[None]:
    """What befalls worker processes is told with the cure, as Grain does not."""
    try:
        yield
    except OSError as error:  # without a path, or with that of a piece of shared memory
        if workers and error.errno == errno.ENOSPC:
            raise StorageError(FULL) from error
        raise
    except RuntimeError as error:
        died = re.search(r"terminated unexpectedly with exit code (-?\d+)", str(error))
        if not died:
            raise
        # Shared memory is promised where there is none yet: who then writes there has it from the kernel.
        raise StorageError(FULL) if int(died[1]) == -signal.SIGBUS else LostWorker(DIED) from None


def _close(opened: list[Any]) -> None:
    while opened:
        opened.pop().close()


def _open(made: _Batches, workers: int) -> Any:  # noqa: ANN401 (a grain.DatasetIterator)
    # Grain imports jax where it finds it: kept out of the import of this module, so that data/ is free of jax.
    import grain
    from absl import flags

    batches = grain.MapDataset.source(made)
    if not workers:
        return iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)))
    if not flags.FLAGS.is_parsed():  # Grain reads its own flags, which nobody passes here
        flags.FLAGS.mark_as_parsed()
    reading = batches.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
    return iter(reading.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)))
