"""A disk that is full, read-only or slow: told soon, the last good checkpoint stays, nothing is left behind."""

import errno
import logging
import shutil
import threading
import time
from dataclasses import replace

import jax
import numpy as np
import pytest
from disks import fill, make_read_only, make_writable, small_disk
from helpers import TINY, abstract_state, parts

from bertjax.errors import StorageError
from bertjax.train import manifest, saver
from bertjax.train.background import heard
from bertjax.train.checkpoint import Checkpoints
from bertjax.train.saver import Saver, require_room
from bertjax.train.steps import UNFINISHED

SIZE = 480_000  # bytes of a checkpoint, about


@pytest.fixture(scope="module")
def state():
    state = parts(replace(TINY, layers=1)).state
    rng = np.random.default_rng(0)  # that the files are as large as the arrays
    return jax.tree.map(lambda x: x + rng.random(x.shape, np.float32) if x.dtype == np.float32 else x, state)


class Run:
    """Saves of one state as if of many steps."""

    def __init__(self, folder, state, **options):
        self.folder, self.state = folder, state
        self.saver = Saver(folder, best="-loss", constant={}, **{"keep_last": 2, **options})

    def save(self, step):
        self.saver.save(replace(self.state, step=np.int32(step)), loader=[], log={}, figures=None)

    def settled(self):
        """As the lines of the log go by, until nothing is being saved."""
        end = time.monotonic() + 30
        while self.saver._step is not None and time.monotonic() < end:
            self.saver.check()
            time.sleep(0.01)

    @property
    def there(self):
        return sorted(path.name for path in (self.folder / "checkpoints").iterdir())

    def restored(self):
        """The last good step, whose state is as it was."""
        step = Checkpoints(self.folder).latest_good()
        found = step.state(abstract_state(self.state))
        jax.tree.map(np.testing.assert_array_equal, replace(found, step=self.state.step), self.state)
        return step.number


@pytest.fixture
def run(tmp_path, state):
    run = Run(tmp_path / "run", state)
    yield run
    run.saver.close()


@pytest.fixture
def refuse(monkeypatch):
    """refuse(times): so many saves find the disk full when their last file is written."""

    def arrange(times, number=errno.ENOSPC):
        left = [None] * times
        write = manifest.write

        def failing(folder):
            if left:
                left.pop()
                raise OSError(number, "refused")
            write(folder)

        monkeypatch.setattr(manifest, "write", failing)

    return arrange


def test_a_failed_save_is_told_and_the_next_one_works(run, refuse, capsys):
    refuse(2)
    for step in (1, 2, 3, 4):
        run.save(step)
        run.settled()
        if step < 3:
            said = capsys.readouterr().err
            assert f"checkpoint {step} could not be saved (there is none yet): {run.folder}: No space left" in said
            assert "make room there; the next save tries again" in said and run.there == []
            assert isinstance(heard.error, OSError)
    assert run.there == ["3", "4"] and run.restored() == 4
    assert capsys.readouterr().err == ""


def test_saves_in_between_start_the_count_anew(run, refuse):
    for first in (1, 4):
        refuse(2)
        for step in range(first, first + 3):
            run.save(step)
            run.settled()
    assert run.there == ["3", "6"]


def test_too_many_failures_stop_the_run(run, refuse):
    run.save(1)
    run.settled()
    refuse(9, errno.EIO)
    run.save(2)
    run.save(3)
    run.save(4)
    with pytest.raises(StorageError, match=r"checkpoint 4 could not be saved \(checkpoint 1 is the last\)") as caught:
        run.settled()
    assert "Input/output error; check the disk (dmesg)" in str(caught.value)
    assert "then give the same command again" in str(caught.value)
    assert run.there == ["1"] and run.restored() == 1


def test_what_a_failed_save_writes_late_is_removed(run, refuse):
    refuse(1)
    run.save(1)
    run.settled()
    late = run.folder / "checkpoints" / f"1{UNFINISHED}" / "train"
    thread = threading.Timer(0.3, late.mkdir, kwargs={"parents": True})
    thread.start()
    run.saver.close()
    thread.join()
    assert run.there == []


def test_the_last_save_has_no_other_after_it(run, refuse):
    refuse(1)
    run.save(1)
    with pytest.raises(StorageError, match="checkpoint 1 could not be saved"):
        run.saver.wait()
    assert run.there == []


@pytest.mark.parametrize("sync", [False, True], ids=["in the background", "at once"])
def test_a_run_does_not_end_well_without_its_last_save(tmp_path, state, refuse, sync):
    """Though it was noticed before its end, as it is where nothing is saved in the background."""
    run = Run(tmp_path / "run", state, sync=sync)
    run.save(1)
    run.settled()
    refuse(1)
    run.save(2)
    run.settled()
    with pytest.raises(StorageError, match=r"checkpoint 2 could not be saved \(checkpoint 1 is the last\)"):
        run.saver.wait()
    run.save(3)
    run.saver.wait()
    run.saver.close()
    assert run.there == ["1", "3"]


def test_what_is_no_fault_of_the_disk_is_raised(run, monkeypatch):
    def broken(folder):
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(manifest, "write", broken)
    run.save(1)
    with pytest.raises(ZeroDivisionError):
        run.settled()


def test_closing_tells_what_nobody_asked_for(run, refuse, capsys):
    refuse(1)
    run.save(1)
    run.saver.close()
    assert "checkpoint 1 could not be saved" in capsys.readouterr().err
    assert run.there == []


def test_one_of_several_processes_does_not_wait_for_the_others(run, monkeypatch):
    run.save(1)
    run.settled()
    run.saver._step = 2  # as if the others were still writing
    monkeypatch.setattr(saver.jax, "process_count", lambda: 2)
    monkeypatch.setattr(run.saver._manager, "is_saving_in_progress", lambda: True)
    run.saver.check()
    assert heard.error is None
    try:
        raise OSError(errno.ENOSPC, "No space left on device")
    except OSError as error:
        record = ("absl", 40, "/lib/orbax/async_checkpointer.py", 1, "failed", (), (OSError, error, None))
        logging.getLogger("absl").handle(logging.LogRecord(*record))
    with pytest.raises(StorageError, match="checkpoint 2 could not be saved"):
        run.saver.check()


def test_only_the_errors_of_orbax_are_kept_from_the_screen():
    ours = logging.LogRecord("absl", 40, "/lib/grain/loader.py", 1, "tell", (), None)
    assert heard.filter(ours)


def test_a_slow_disk_is_told(run, monkeypatch, capsys):
    monkeypatch.setattr(manifest, "write", lambda folder: time.sleep(1.5))
    run.save(1)
    run.save(2)
    said = capsys.readouterr().err
    assert "step 2 waited " in said and "s for the checkpoint before it: the disk is slower" in said
    assert "--save-every" in said


@pytest.mark.parametrize(
    ("free", "steps", "said"),
    [
        (0.5, 0, None),
        (2.5, 0, "there will be 4 more of them: make room, or lower --keep-last"),
        (4.5, 0, ""),
        (1.5, 3, ""),
        (1.5, 2, "there will be 2 more of them"),
        (0.9, 9, None),
    ],
)
def test_room_is_looked_for_before_the_first_save(tmp_path, state, monkeypatch, capsys, free, steps, said):
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    monkeypatch.setattr(saver, "free_bytes", lambda folder: int(size * free))
    for step in range(steps):
        (tmp_path / "checkpoints" / str(step)).mkdir(parents=True)
    if said is None:
        with pytest.raises(StorageError, match=r"MiB are free, a checkpoint takes .*; make room"):
            require_room(tmp_path, state, keep_last=2)
    else:
        require_room(tmp_path, state, keep_last=2)
        assert said in capsys.readouterr().err if said else capsys.readouterr().err == ""


@pytest.mark.late
def test_a_disk_that_fills_up_anywhere(tmp_path, state, capfd):
    """At ten places between nothing and a whole checkpoint; nothing but our words reaches the screen."""
    with small_disk(tmp_path / "disk", 4 * SIZE) as disk:
        run = Run(disk / "run", state)
        free = shutil.disk_usage(disk).free
        run.save(1)
        run.settled()
        used = free - shutil.disk_usage(disk).free
        for number in range(10):
            filler = fill(disk, leave=number * used // 9)
            run.save(2 + number)
            run.settled()
            assert run.restored() == run.saver._manager.latest_step()
            if run.saver._failures:
                time.sleep(0.3)
                run.saver.check()
            assert not [name for name in run.there if not name.isdigit()]
            run.saver._failures = 0
            filler.unlink()
        run.save(20)
        run.saver.wait()
        assert run.restored() == 20 and len(run.there) == 2
        run.saver.close()
    lines = [line for line in capfd.readouterr().err.splitlines() if line]
    assert 5 <= len(lines) <= 10 and all("could not be saved" in line for line in lines), lines


def test_a_disk_that_becomes_read_only(tmp_path, state, capsys):
    with small_disk(tmp_path / "disk", 4 * SIZE) as disk:
        run = Run(disk / "run", state)
        run.save(1)
        run.settled()
        make_read_only(disk)
        run.save(2)
        run.settled()
        assert "Read-only file system; mount it for writing" in capsys.readouterr().err
        assert run.restored() == 1
        make_writable(disk)
        run.save(3)
        run.saver.wait()
        assert run.restored() == 3 and run.there == ["1", "3"]
        run.saver.close()


def test_a_save_that_is_waited_for_is_on_the_disk(tmp_path, state):
    run = Run(tmp_path / "run", state, sync=True)
    try:
        run.save(1)
        assert run.there == ["1"] and not run.saver._manager.is_saving_in_progress()
    finally:
        run.saver.close()
