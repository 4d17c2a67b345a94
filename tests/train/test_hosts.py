"""Two hosts, as two processes: each makes and gives its own rows, and together they hold the batch."""

import os
import socket
import subprocess
import sys

import pytest

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
