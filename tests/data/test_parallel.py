import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bertjax.data.parallel import IN_FLIGHT, ordered
from bertjax.errors import ConfigError, DataError, LostWorker


class Work:
    """Squares, later ones sooner; some numbers are special."""

    def __call__(self, number):
        if number == -1:
            os.kill(os.getpid(), signal.SIGKILL)
        if number == -2:
            raise ConfigError("minus two")
        time.sleep(0.02 if number % 5 == 0 else 0)
        return number * number, os.getpid()


def no_children(seconds=10):
    end = time.monotonic() + seconds
    while multiprocessing.active_children() and time.monotonic() < end:
        time.sleep(0.05)
    return not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_come_in_order(workers):
    results = list(ordered(Work(), iter(range(60)), workers))
    assert [square for square, _ in results] == [n * n for n in range(60)]
    assert (os.getpid() in {process for _, process in results}) == (workers == 0)
    assert no_children()


def test_little_is_in_flight():
    taken = 0

    def items():
        nonlocal taken
        while taken < 1000:
            taken += 1
            yield taken

    with contextlib.closing(ordered(Work(), items(), 2)) as results:
        for done, _ in enumerate(results, start=1):
            assert taken <= done + 2 * IN_FLIGHT
            if done == 50:
                break
    assert no_children()


@pytest.mark.parametrize(
    "special, kind, message",
    [(-1, LostWorker, "a worker process died.*[Ff]ewer --workers"), (-2, ConfigError, "minus two")],
)
def test_a_worker_that_dies_or_raises(special, kind, message):
    with pytest.raises(kind, match=message):
        list(ordered(Work(), [1, 2, special, *range(50)], 2))
    assert no_children()


def test_a_source_that_fails():
    def items():
        yield from range(30)
        raise DataError("the file ends here")

    with pytest.raises(DataError, match="ends here"):
        list(ordered(Work(), items(), 2))
    assert no_children()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_workers_end_with_their_parent(tmp_path, how):
    program = tmp_path / "program.py"
    program.write_text(
        "import itertools, os\n"
        "from bertjax.data.parallel import ordered\n"
        "def work(number):\n    return os.getpid()\n"
        "if __name__ == '__main__':\n"
        "    for pid in ordered(work, itertools.count(), 2):\n        print(pid, flush=True)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parents[2])])}
    process = subprocess.Popen(
        [sys.executable, program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    workers = set()
    while len(workers) < 2:
        workers.add(int(process.stdout.readline()))
    process.send_signal(how)
    process.stdout.close()
    process.wait(20)
    process.stderr.close()
    end = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
