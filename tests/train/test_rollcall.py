"""Who has come, as the connections of this machine tell it."""

import socket
import threading
import time

import pytest

from bertjax.train import rollcall


@pytest.fixture
def server():
    with socket.create_server(("localhost", 0)) as listening:
        yield listening, listening.getsockname()[1]


def test_somebody_listens_or_not(server):
    listening, port = server
    assert rollcall.listens(f"localhost:{port}")
    listening.close()
    assert not rollcall.listens(f"localhost:{port}")
    assert not any(map(rollcall.listens, ("", "localhost", "localhost:", "localhost:x", "nowhere.invalid:1")))


def test_connections_are_counted_while_they_last(server):
    listening, port = server
    assert rollcall.connected(port) == 0
    ends = [(socket.create_connection(("localhost", port)), listening.accept()[0]) for _ in range(3)]
    assert rollcall.connected(port) == 3
    for end in ends.pop():
        end.close()
    assert rollcall.connected(port) == 2
    for both in ends:
        for end in both:
            end.close()


@pytest.mark.parametrize("counts", [(3, 2), (2, 3), (2, 2)])
def test_who_only_looks_whether_somebody_answers_does_not_count(monkeypatch, counts):
    looks = iter(counts)
    monkeypatch.setattr(rollcall, "connected", lambda port: next(looks))
    assert rollcall.staying(1) == 2


class State:
    coordinator_address, num_processes, process_id = "", 3, 0


@pytest.mark.parametrize(("first", "second", "most"), [(0, 0, 0), (1, 1, 1), (1, 2, 2), (2, 1, 2)])
def test_process_0_counts_who_has_come(monkeypatch, server, first, second, most):
    ended, left, port = threading.Event(), threading.Event(), server[1]
    state, said, seen = State(), [], iter([first])
    state.coordinator_address = f"localhost:{port}"
    monkeypatch.setattr(rollcall, "LOOK", 0.2)
    monkeypatch.setattr(rollcall, "staying", lambda found: next(seen, second) if found == port else 9)

    def end(code, message):  # which never returns
        said.append((code, message))
        ended.set()
        left.wait()

    monkeypatch.setattr(rollcall.REQUEST, "end", end)
    call = rollcall.RollCall(state, seconds=1, own="", cure="the cure", given=True)
    assert ended.wait(20)
    call.close()
    left.set()
    there = f"at most {most} of 3" if most else "not all of 3"
    told = f"process 0: {there} processes have come in 1 seconds: the others were stopped or never started; the cure"
    assert said[0] == (42, told)


@pytest.mark.parametrize("given", [True, False])
def test_nobody_answers(monkeypatch, capfd, given):
    """A wrong address is the user's; in a cluster process 0 may be late."""
    said, ended = [], threading.Event()

    def end(code, message="", **_):
        said.append((code, message))
        ended.set()
        threading.Event().wait()  # neither returns; what comes after would end this process

    monkeypatch.setattr(rollcall.os, "_exit", end)
    monkeypatch.setattr(rollcall.REQUEST, "end", end)
    state = State()
    state.coordinator_address, state.process_id = "localhost:1", 1
    call = rollcall.RollCall(state, seconds=1, own="", cure="the cure", given=given)
    assert ended.wait(20)
    call.close()
    nobody = "nobody answers at localhost:1"
    told = f"process 1: {nobody} in 1 seconds: the others were stopped or never started; the cure"
    assert said[0] == ((2, "") if given else (42, told))
    assert (f"did not find each other ({nobody}); the cure" in capfd.readouterr().err) == given


def test_nothing_is_said_once_all_have_come(monkeypatch, capfd):
    monkeypatch.setattr(rollcall.os, "_exit", lambda code: pytest.fail("ended"))
    rollcall.RollCall(State(), seconds=1, own="", cure="the cure", given=True).close()
    time.sleep(1.2)
    assert not capfd.readouterr().err
