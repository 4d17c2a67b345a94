"""One writer for a run in a bucket: races are decided by the store, and the dead hold nothing."""

import json
import os
import socket
import subprocess
import threading

import pytest

from bertjax import bucket, bucket_lock, lock
from bertjax.errors import ConfigError, StorageError
from bertjax.paths import as_path

RUN = as_path("gs://bkt/run")
ELSEWHERE = json.dumps({"host": "tpu-3", "pid": 7, "machine": "other", "id": "cafe", "since": "yesterday"}).encode()


@pytest.fixture(autouse=True)
def quick(cloud, monkeypatch):
    monkeypatch.setattr(lock, "SIGN", 0.05)
    monkeypatch.setattr(lock, "SILENT", 0.4)


def content(store):
    return json.loads(store.files("bkt")["run/run.lock"])


def test_it_says_who_holds_it_and_shows_signs_of_life(cloud):
    with bucket_lock.held(RUN):
        first = cloud.buckets["bkt"]["run/run.lock"].generation
        assert content(cloud)["pid"] == os.getpid() and content(cloud)["host"] == socket.gethostname()
        threading.Event().wait(0.3)
        assert cloud.buckets["bkt"]["run/run.lock"].generation > first
        with pytest.raises(ConfigError, match="written by this process already"), bucket_lock.held(RUN):
            pass
    assert not cloud.files("bkt")


def test_one_that_lives_elsewhere_is_named(cloud, capsys):
    over = threading.Event()
    cloud.store("bkt", "run/run.lock", ELSEWHERE)

    def live():
        while not over.wait(0.05):
            cloud.store("bkt", "run/run.lock", ELSEWHERE)

    thread = threading.Thread(target=live)
    thread.start()
    try:
        with pytest.raises(ConfigError, match=r"gs://bkt/run is being written by process 7 on tpu-3 .*another --out"):
            bucket_lock.held(RUN).__enter__()
        assert "process 7 on tpu-3" in bucket_lock.holder(RUN)
    finally:
        over.set()
        thread.join()
    assert "waits" in capsys.readouterr().err and content(cloud)["id"] == "cafe"


def test_one_that_is_silent_is_taken_over(cloud, capsys):
    cloud.store("bkt", "run/run.lock", ELSEWHERE)
    assert not bucket_lock.holder(RUN)
    with bucket_lock.held(RUN):
        assert content(cloud)["pid"] == os.getpid()
    assert "left locked by process 7 on tpu-3" in capsys.readouterr().err


def test_a_dead_process_of_this_machine_is_not_waited_for(cloud, capsys, monkeypatch):
    monkeypatch.setattr(lock, "SILENT", 1e9)
    child = subprocess.Popen(["true"])
    child.wait()
    about = {"host": "here", "pid": child.pid, "machine": bucket_lock._machine(), "id": "dead", "since": "?"}
    cloud.store("bkt", "run/run.lock", json.dumps(about).encode())
    assert not bucket_lock.holder(RUN)
    with bucket_lock.held(RUN):
        assert content(cloud)["pid"] == os.getpid()
    assert not capsys.readouterr().err


def test_a_container_before_this_one_with_the_same_numbers_is_dead(cloud, monkeypatch):
    monkeypatch.setattr(lock, "SIGN", 0.5)  # a sign is awaited for half as long again
    monkeypatch.setattr(lock, "SILENT", 1e9)
    about = {"host": "pod-0", "pid": os.getpid(), "machine": bucket_lock._machine(), "id": "dead", "since": "?"}
    cloud.store("bkt", "run/run.lock", json.dumps(about).encode())
    assert not bucket_lock.holder(RUN)
    with bucket_lock.held(RUN):
        assert content(cloud)["id"] != "dead" and bucket_lock.holder(RUN)


def test_of_several_at_once_one_takes_it(cloud):
    cloud.store("bkt", "run/run.lock", ELSEWHERE)
    begun, taken, ended = threading.Barrier(4), [], threading.Event()

    def race(number):
        begun.wait()
        try:
            # As it is of four processes: each has a text of its own.
            about = json.dumps({"host": "h", "pid": number, "machine": f"m{number}", "id": str(number)}).encode()
            taken.append(bucket_lock._acquire(RUN / lock.NAME, RUN, about))
            signs = bucket_lock._Signs(RUN / lock.NAME, about, taken[-1])
            ended.wait()
            signs.end()
        except ConfigError:
            pass
        finally:
            ended.set() if len(taken) > 1 else None

    threads = [threading.Thread(target=race, args=(number,)) for number in (101, 102, 103, 104)]
    for thread in threads:
        thread.start()
    threading.Event().wait(1.5)
    assert len(taken) == 1
    ended.set()
    for thread in threads:
        thread.join()


def test_an_answer_that_was_lost_is_no_other_holder(cloud):
    """The store has written what was asked, and the client tries again as it did not hear of it."""
    lost = []

    def fault(method, path):
        if method == "POST" and not lost:
            lost.append(cloud.store("bkt", "run/run.lock", text))
            return 503
        return None

    text = json.dumps({"host": "h", "pid": 1, "machine": "m", "id": "x"}).encode()
    cloud.fault = fault
    assert str(bucket_lock._acquire(RUN / lock.NAME, RUN, text)) == lost[0]["generation"]
    signs = bucket_lock._Signs(RUN / lock.NAME, text, 1)  # an old generation: its write was not heard of either
    threading.Event().wait(0.3)
    signs.end()
    assert not cloud.files("bkt")


@pytest.mark.parametrize("by", [ELSEWHERE, None])
def test_a_process_whose_lock_was_taken_ends(cloud, monkeypatch, capsys, by):
    codes = []
    monkeypatch.setattr(bucket_lock.os, "_exit", codes.append)
    with bucket_lock.held(RUN):
        if by:
            cloud.store("bkt", "run/run.lock", by)
        else:
            del cloud.buckets["bkt"]["run/run.lock"]
        threading.Event().wait(0.3)
    assert codes == [3]
    assert ("process 7 on tpu-3" if by else "its lock was deleted") in capsys.readouterr().err
    assert not by or content(cloud)["id"] == "cafe"


def test_a_lock_that_is_no_json_is_waited_for_as_any(cloud):
    cloud.store("bkt", "run/run.lock", b"\xff{")
    with bucket_lock.held(RUN):
        assert content(cloud)["pid"] == os.getpid()


def test_without_the_right_to_write_nothing_is_held(cloud):
    cloud.fault = lambda method, path: 403 if method == "POST" else None
    with pytest.raises(StorageError, match=r"gs://bkt/run: the bucket forbids it; .*objectUser"):
        bucket_lock.held(RUN).__enter__()


def test_generations_decide(cloud):
    path = RUN / "x"
    first = bucket.write(path, b"1", over=0)
    with pytest.raises(FileExistsError):
        bucket.write(path, b"2", over=0)
    second = bucket.write(path, b"2", over=first)
    with pytest.raises(FileExistsError):
        bucket.delete(path, generation=first)
    bucket.delete(path, generation=second)
    assert bucket.stat(path) is None
