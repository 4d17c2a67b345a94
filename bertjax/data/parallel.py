"""A function over a stream, in other processes: results in order, a bounded number in flight, nobody left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from bertjax.errors import LostWorker

In = TypeVar("In")
Out = TypeVar("Out")
DIED = (
    "a worker process died; was it killed, perhaps for want of memory? Fewer --workers take less; "
    "the same command goes on"
)
IN_FLIGHT = 3  # items for each worker: one at work, one waiting for it, one waiting to be taken


def lots(items: Iterable[In], size: Callable[[In], int], most: int) -> Iterator[list[In]]:
    """Runs of items, each closed as soon as their sizes come to `most`: what is handed to a process at once."""
    several: list[In] = []
    held = 0
    for item in items:
        several.append(item)
        held += size(item)
        if held >= most:
            yield several
            several, held = [], 0
    if several:
        yield several


def ordered(function: Callable[[In], Out], items: Iterable[In], workers: int) -> Generator[Out, None, None]:
    """`function` of each item, in order: here, or in processes that each get a copy of it. Close it when done early."""
    if not workers:
        yield from map(function, items)
        return
    context = multiprocessing.get_context("spawn")  # forking a process that has threads can hang
    pool = ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(function,))
    waiting: deque[Future[Out]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(_call, item))
            if len(waiting) >= IN_FLIGHT * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise LostWorker(DIED) from None
    finally:
        pool.shutdown(cancel_futures=True)


_function: Callable[[Any], Any]  # in a worker


def _begin(function: Callable[[Any], Any]) -> None:
    global _function
    _function = function
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # what a terminal sends reaches all; the parent says when to stop
    end_with_parent()


def end_with_parent() -> None:
    """In a worker: a parent that was killed cannot tell it, and it holds both ends of the pipe it waits on."""
    if parent := multiprocessing.parent_process():

        def watch() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()


def leave_signals_to_parent() -> None:
    """In a worker: what is sent to all processes of a job is for the parent to obey, which needs it until it ends."""
    if multiprocessing.parent_process():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)


def _call(item: Any) -> Any:  # noqa: ANN401 (whatever `_function` takes and gives)
    return _function(item)
