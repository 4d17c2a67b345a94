"""The supervisor: what is started again and what is not, how long it waits, when it gives up."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bertjax.supervise import kept

ROOT = Path(__file__).parent.parent.parent

# Ends as the next of ENDS says: [exit code or a signal's negative number, the checkpoint it makes or 0], or
# ["wait", exit code after SIGTERM].
STUB = """
import json, os, signal, sys, time
from pathlib import Path
out = Path(sys.argv[sys.argv.index("--out") + 1])
starts = out / "starts"
number = int(starts.read_text()) if starts.exists() else 0
starts.write_text(str(number + 1))
code, step = json.loads(os.environ["ENDS"])[number]
if step and code != "wait":
    (out / "sst2/seed-0/checkpoints" / str(step)).mkdir(parents=True)
if code == "wait":
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    (out / "waits").touch()
    signal.sigwait([signal.SIGTERM])
    sys.exit(step)
os.kill(os.getpid(), -code) if code < 0 else sys.exit(code)
"""


def supervise(out, ends, *, pause=0.01):
    out.mkdir()
    stub = [sys.executable, "-c", STUB, "--out", out]
    command = [sys.executable, "-m", "bertjax.supervise", "--pause", pause, *stub]
    environment = {**os.environ, "ENDS": json.dumps(ends), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True, env=environment)


@pytest.mark.parametrize(
    ("ends", "code", "starts"),
    [
        ([[0, 5]], 0, 1),
        ([[2, 0]], 2, 1),
        ([[3, 0]], 3, 1),
        ([[130, 0]], 130, 1),
        ([[42, 0], [75, 0], [-6, 0], [0, 0]], 0, 4),  # jax aborts
        ([[-9, 0], [1, 0], [2, 0]], 2, 3),
        ([[42, 0]] * 4, 1, 4),  # the first and three more
        ([[42, 0], [42, 0], [42, 5], [-15, 0], [42, 0], [0, 0]], 0, 6),  # what is new gives three more
        ([[42, 5], [42, 0], [42, 0], [-9, 0]], 1, 4),
    ],
)  # fmt: skip
def test_what_is_started_again(tmp_path, ends, code, starts):
    process = supervise(tmp_path / "run", ends)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, int((tmp_path / "run/starts").read_text())) == (code, starts), err
    assert err.count("starts again") == starts - 1
    gave_up = f"3 restarts in a row made no new checkpoint in {tmp_path / 'run'}: gives up"
    assert (gave_up in err) == (code == 1), err


def test_it_waits_twice_as_long_each_time(tmp_path):
    began = time.monotonic()
    process = supervise(tmp_path / "run", [[42, 0], [42, 0], [42, 0], [0, 0]], pause=0.2)
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - began > 0.2 + 0.4 + 0.8 - 0.2
    assert [line.split(" seconds")[0].split()[-1] for line in err.splitlines()] == ["0.2", "0.4", "0.8"], err


@pytest.mark.parametrize(
    ("number", "ends", "code"),
    [
        (signal.SIGTERM, 42, 42),
        (signal.SIGINT, 42, 42),
        (signal.SIGHUP, 42, 42),
        (signal.SIGTERM, 1, 42),
        (signal.SIGTERM, 3, 3),
    ],
)
def test_asked_to_stop_it_hands_that_on_and_starts_nothing(tmp_path, number, ends, code):
    process = supervise(tmp_path / "run", [["wait", ends]])
    wait_for(tmp_path / "run/waits")
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code and "starts again" not in err


def wait_for(path):
    end = time.monotonic() + 60
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.01)


def test_under_nohup_the_end_of_the_terminal_is_none_of_the_command(tmp_path):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    process = supervise(tmp_path / "run", [["wait", 42]])
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    wait_for(tmp_path / "run/waits")
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 42


def test_asked_to_stop_while_it_waits(tmp_path):
    process = supervise(tmp_path / "run", [[42, 0]], pause=60)
    assert "starts again in 60 seconds" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 42


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["bertjax", "pretrain"], "has no --out"),
        ([], "no command"),
        (["--"], "no command"),
        (["/nowhere", "--out", "run"], "/nowhere: No such file"),
        (["--", "/nowhere", "--out", "run"], "/nowhere: No such file"),
        (["--pause", "-5", "true", "--out", "run"], "from 0 to 300 seconds"),
        (["--pause", "nan", "true", "--out", "run"], "from 0 to 300 seconds"),
    ],
)
def test_a_command_that_cannot_be_watched_or_started(tmp_path, command, told):
    done = subprocess.run(
        [sys.executable, "-m", "bertjax.supervise", *command], capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 2 and told in done.stderr, done.stderr


def test_folders_that_vanish_while_it_looks_are_no_fault(tmp_path):
    """Other hosts make and delete what Orbax has begun, in the folder that all share."""
    over = threading.Event()

    def churn():
        while not over.is_set():
            step = tmp_path / "checkpoints/5.orbax-checkpoint-tmp/train/state"
            step.mkdir(parents=True)
            shutil.rmtree(step.parent.parent)

    (tmp_path / "sst2/checkpoints/7/train").mkdir(parents=True)
    (tmp_path / "train-0.array_record").touch()
    thread = threading.Thread(target=churn)
    thread.start()
    try:
        assert all(kept(tmp_path) == {"sst2/checkpoints/7", "train-0.array_record"} for _ in range(1_000))
    finally:
        over.set()
        thread.join()
    assert kept(tmp_path / "nowhere") == set()


def test_checkpoints_behind_a_link_count(tmp_path):
    (tmp_path / "disk/3").mkdir(parents=True)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/checkpoints").symlink_to(tmp_path / "disk")
    (tmp_path / "link").symlink_to(tmp_path / "run")
    assert kept(tmp_path / "link") == {"checkpoints/3"}
