"""Two hosts, as two processes: each makes and gives its own rows, and together they hold the batch."""

import errno
import os
import socket
import subprocess
import sys

import pytest

from bertjax import storage
from bertjax.errors import AwayError, ConfigError, DevicesError
from bertjax.train import hosts

HOST = """
import sys
import jax
import numpy as np
from bertjax.train.mesh import MeshConfig, local_rows, make_mesh, put_batch

port, number, *sizes = map(int, sys.argv[1:])
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=number)
mesh = make_mesh(MeshConfig(*sizes))
rows = local_rows(8, mesh)
batch = put_batch({"tokens": np.arange(24, dtype=np.int32).reshape(8, 3)[rows]}, mesh)
assert batch["tokens"].shape == (8, 3), batch["tokens"].shape
weighted = jax.jit(lambda x: (x * np.arange(1, 25).reshape(8, 3)).sum())(batch["tokens"])
print(rows.tolist(), int(weighted))
"""


@pytest.mark.parametrize(
    ("sizes", "rows"),
    [
        ((4, 1, 1), [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ((1, 1, 4), [[*range(8)], [*range(8)]]),  # every host has a piece of the model, and all of the batch
    ],
)
def test_hosts_hold_the_batch_together(sizes, rows):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    hosts = [
        subprocess.Popen(
            [sys.executable, "-c", HOST, *map(str, (port, number, *sizes))],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    said = [host.communicate(timeout=120) for host in hosts]
    expected = sum(number * (number + 1) for number in range(24))
    for (out, err), own in zip(said, rows, strict=True):
        assert out.splitlines()[-1:] == [f"{own} {expected}"], err


@pytest.mark.parametrize("apart", [False, True])
def test_no_mark_is_left_in_a_folder(tmp_path, monkeypatch, apart):
    calls = []

    def gather(text):
        calls.append(text)
        return [text, "2 ConfigError: not the folder" if apart and len(calls) == 3 else text]

    monkeypatch.setattr(hosts.jax, "process_count", lambda: 2)
    monkeypatch.setattr(hosts, "gather", gather)
    if apart:
        with pytest.raises(hosts.Told, match="process 1 of 2 stops all: ConfigError: not the folder"):
            hosts.check_shared(tmp_path)
    else:
        hosts.check_shared(tmp_path)
    assert len(calls) == 3 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), 2),
        (AwayError("x"), 75),
        (DevicesError("x"), 42),
        (OSError(errno.ENOSPC, "full"), 3),
        (NotADirectoryError(errno.ENOTDIR, "no", "/named/run"), 2),
        (NotADirectoryError(errno.ENOTDIR, "no", "/other/run"), 1),
        (KeyError("x"), 1),
    ],
)
def test_all_end_with_the_code_of_the_one_that_fails(monkeypatch, error, code):
    """Or one would be started again and wait for others that are not."""
    told = []
    monkeypatch.setattr(storage, "NAMED", {"/named/run": True})
    monkeypatch.setattr(hosts.jax, "process_count", lambda: 2)
    monkeypatch.setattr(hosts, "gather", lambda text: (told.append(text), [told[0], "=other"])[1])
    with pytest.raises(type(error)), hosts.together():
        raise error
    with (
        pytest.raises(hosts.Told, match=f"process 0 of 2 stops all: {type(error).__name__}: ") as raised,
        hosts.together(),
    ):
        pass
    assert raised.value.code == code and told[0].startswith(f"{code} ")


@pytest.mark.parametrize(
    ("own", "whose", "tells"),
    [
        (hosts.Own(), "", True),
        (hosts.Own(agreed=False), "", True),  # a cluster has yet to say which it is
        (hosts.Own(0, 12), "", True),
        (hosts.Own(10, 12), "", False),
        (hosts.Own(10, 12, agreed=False), " (process 10 of 12)", True),
    ],
)
def test_who_speaks(monkeypatch, own, whose, tells):
    monkeypatch.setattr(hosts, "_own", own)
    assert (hosts.whose(), hosts.tells()) == (whose, tells)
