"""One writer for a run: races are decided, the dead hold nothing, and who holds it is said."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from disks import fill, small_disk

from bertjax import lock
from bertjax.errors import ConfigError, StorageError

HOLD = """
import sys, time
from pathlib import Path
from bertjax.errors import ConfigError
from bertjax.lock import held

for line in sys.stdin:  # a folder each; the lock is held until the next one comes
    try:
        with held(Path(line.strip())):
            print("held", flush=True)
            sys.stdin.readline()
        print("left", flush=True)
    except ConfigError as error:
        print(error, flush=True)
"""


@pytest.fixture
def holders():
    """holders(n): processes that hold what they are told to."""
    started = []

    def start(count):
        options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
        new = [subprocess.Popen([sys.executable, "-c", HOLD], **options) for _ in range(count)]
        started.extend(new)
        return new

    yield start
    for process in started:
        process.kill()
        process.communicate()


LOOK = """
import sys
from pathlib import Path
from bertjax.lock import holder

print("looks", flush=True)
while True:
    holder(Path(sys.argv[1]))
"""


def tell(process, text):
    process.stdin.write(f"{text}\n")
    process.stdin.flush()


def said(process):
    return process.stdout.readline().strip()


def test_races_are_decided(holders, tmp_path):
    both = holders(2)
    for race in range(20):
        for process in both:
            tell(process, tmp_path / f"run-{race}")
        answers = [said(process) for process in both]
        assert sorted(answer == "held" for answer in answers) == [False, True], answers
        winner = answers.index("held")
        refused = answers[1 - winner]
        assert "is being written by" in refused and "give another --out" in refused
        tell(both[winner], "done")
        assert said(both[winner]) == "left"


def test_who_holds_it_is_said(holders, tmp_path):
    (process,) = holders(1)
    tell(process, tmp_path)
    assert said(process) == "held"
    with (
        pytest.raises(ConfigError, match=rf"process {process.pid} on .* \(since \d{{4}}-.* UTC, lock \w+\)"),
        lock.held(tmp_path),
    ):
        pass
    assert f"process {process.pid} on" in lock.holder(tmp_path)
    tell(process, "done")
    assert said(process) == "left" and lock.holder(tmp_path) == ""


def test_the_dead_hold_nothing(holders, tmp_path):
    for process in holders(5):
        tell(process, tmp_path)
        assert said(process) == "held"
        process.kill()
        process.wait()
        assert (tmp_path / lock.NAME).read_bytes()  # it had no time to leave
        with lock.held(tmp_path):
            assert json.loads((tmp_path / lock.NAME).read_bytes())["pid"] == os.getpid()


@pytest.mark.parametrize("left", [False, True], ids=["free", "left-by-the-dead"])
def test_who_looks_keeps_nobody_from_writing(tmp_path, left):
    looking = subprocess.Popen(
        [sys.executable, "-c", LOOK, tmp_path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert looking.stdout.readline() == "looks\n"
        for _ in range(200):
            if left:
                dead = {"pid": looking.pid + (1 << 22), "machine": lock.machine()}  # above all that Linux gives
                (tmp_path / lock.NAME).write_text(json.dumps(dead))
            with lock.held(tmp_path):
                pass
            assert lock.holder(tmp_path) == ""
        assert looking.poll() is None
    finally:
        looking.kill()
        looking.communicate()


def test_a_lock_that_is_taken_and_not_signed_is_waited_for(tmp_path):
    program = "import fcntl, sys, time; file = open(sys.argv[1], 'r+'); fcntl.lockf(file, fcntl.LOCK_EX); "
    program += "print(1, flush=True); "
    for seconds, refused in ((0.2, False), (60, True)):
        command = [sys.executable, "-c", f"{program}time.sleep({seconds})", tmp_path / lock.NAME]
        (tmp_path / lock.NAME).touch()
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            if refused:
                with pytest.raises(ConfigError, match="by another process"), lock.held(tmp_path):
                    pass
            else:
                with lock.held(tmp_path):
                    pass
            process.kill()


def test_a_stopped_holder_is_a_holder(holders, tmp_path):
    (process,) = holders(1)
    tell(process, tmp_path)
    assert said(process) == "held"
    process.send_signal(signal.SIGSTOP)
    with pytest.raises(ConfigError, match="is being written by"), lock.held(tmp_path):
        pass
    process.send_signal(signal.SIGCONT)


def test_a_process_does_not_take_its_own_twice(tmp_path):
    with lock.held(tmp_path):
        assert lock.holder(tmp_path) == "this process"
        with pytest.raises(ConfigError, match="by this process already"), lock.held(tmp_path):
            pass
    with lock.held(tmp_path):
        pass


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """The lock of a run on another machine, on a file system that does not tell of it."""
    monkeypatch.setattr(lock, "SILENT", 0.6)
    monkeypatch.setattr(lock, "SIGN", 0.2)
    path = tmp_path / lock.NAME
    path.write_text(json.dumps({"host": "other", "pid": 7, "machine": "another", "id": "ab", "since": "then"}))
    return path


def test_a_holder_elsewhere_that_is_silent_is_gone(elsewhere, tmp_path, capsys):
    assert lock.holder(tmp_path) == "process 7 on other (since then, lock ab)"
    began = time.monotonic()
    with lock.held(tmp_path):
        assert time.monotonic() - began > 0.5
    assert "left locked by process 7 on other" in capsys.readouterr().err and lock.holder(tmp_path) == ""


def test_a_holder_elsewhere_that_gives_signs_of_life_is_not(elsewhere, tmp_path):
    done = threading.Event()
    thread = threading.Thread(target=lock._signs, args=(elsewhere, done))
    thread.start()
    with pytest.raises(ConfigError, match="process 7 on other"), lock.held(tmp_path):
        pass
    done.set()
    thread.join()
    assert json.loads(elsewhere.read_bytes())["pid"] == 7


def test_a_holder_gives_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "SIGN", 0.01)
    with lock.held(tmp_path):
        before = (tmp_path / lock.NAME).stat().st_mtime_ns
        deadline = time.monotonic() + 10
        while (tmp_path / lock.NAME).stat().st_mtime_ns == before and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (tmp_path / lock.NAME).stat().st_mtime_ns > before


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"pid": {"a": 1}}', "\0" * 9000])
def test_a_lock_that_is_damaged_is_taken(tmp_path, monkeypatch, text):
    monkeypatch.setattr(lock, "SILENT", 0.0)
    (tmp_path / lock.NAME).write_text(text)
    assert lock.holder(tmp_path) == ""
    with lock.held(tmp_path):
        pass


@pytest.fixture(params=[errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP], ids=errno.errorcode.get)
def without_locks(request, monkeypatch):
    """A file system that knows none."""

    def failing(*_):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(lock.fcntl, "lockf", failing)


@pytest.fixture
def left(tmp_path):
    """left(pid) -> the lock of a run that a process of this machine has signed."""

    def sign(pid):
        (tmp_path / lock.NAME).write_text(json.dumps({**lock.record(lock.machine()), "pid": pid}))
        return tmp_path / lock.NAME

    return sign


def test_without_locks_a_living_process_of_this_machine_is_a_holder(without_locks, holders, left, tmp_path):
    (process,) = holders(1)
    before = left(process.pid).read_bytes()
    for _ in range(2):
        assert lock.holder(tmp_path).startswith(f"process {process.pid} on")
        with pytest.raises(ConfigError, match=f"is being written by process {process.pid} on"), lock.held(tmp_path):
            pass
        assert (tmp_path / lock.NAME).read_bytes() == before
    process.kill()
    process.wait()
    assert lock.holder(tmp_path) == ""
    with lock.held(tmp_path):
        assert json.loads((tmp_path / lock.NAME).read_bytes())["pid"] == os.getpid()


@pytest.mark.parametrize("pid", ["own", 0, -1, "7", None])
def test_without_locks_what_names_no_other_process_is_taken(without_locks, left, tmp_path, pid):
    left(os.getpid() if pid == "own" else pid)
    with lock.held(tmp_path):
        pass


def test_without_locks_a_silent_holder_elsewhere_is_gone(without_locks, elsewhere, tmp_path):
    assert lock.holder(tmp_path).startswith("process 7 on other")
    with lock.held(tmp_path):
        pass


def test_with_locks_a_number_that_another_process_has_now_holds_nothing(holders, left, tmp_path):
    (process,) = holders(1)
    left(process.pid)
    assert lock.holder(tmp_path) == ""
    with lock.held(tmp_path):
        pass


@pytest.mark.parametrize("made", [False, True])
def test_a_disk_without_room_for_a_lock_is_told_and_left_as_it_was(tmp_path, made):
    with small_disk(tmp_path / "disk", 100_000) as disk:
        fill(disk)
        run = disk if made else disk / "run"
        names = sorted(path.name for path in disk.iterdir())
        with pytest.raises(StorageError, match=f"{run}/run.lock: No space left on device; make room"), lock.held(run):
            pass
        assert sorted(path.name for path in disk.iterdir()) == names and not lock.holder(run)


def test_a_lock_that_cannot_be_written_is_told_and_taken_away(tmp_path, monkeypatch):
    def failing(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(lock.os, "pwrite", failing)
    with pytest.raises(StorageError, match=r"run/run\.lock: No space left on device"), lock.held(tmp_path / "run"):
        pass
    assert not (tmp_path / "run").exists()
    monkeypatch.undo()
    with lock.held(tmp_path / "run"):
        pass
