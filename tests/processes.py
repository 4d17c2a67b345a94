"""The command line in several processes on this machine, and what they said."""

import json
import os
import socket
import subprocess
import sys
from typing import NamedTuple

import numpy as np

# Runs commands one after the other; keeps the rows of every batch that goes to the devices. In one of the commands it
# gets SIGTERM after a few batches, and goes slowly from there on: that there is something left to stop.
DRIVER = """
import json, os, signal, sys, time
import numpy as np
from bertjax import cli
from bertjax.train import loop
from bertjax.train.mesh import local_rows

folder, number, commands, stopped = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), int(sys.argv[4])
put, kept, codes = loop.put_batch, {}, []

def keep(batch, mesh):
    made = put(batch, mesh)
    mine = kept.setdefault(len(codes), [])
    if "masked_targets" in batch:
        mine.append((local_rows(len(made["tokens"]), mesh), batch["tokens"], batch["masked_targets"]))
    if len(codes) == stopped and len(mine) >= 8:
        time.sleep(0.3)
        if len(mine) == 8:
            os.kill(os.getpid(), signal.SIGTERM)
    return made

loop.put_batch = keep
for command in commands:
    codes.append(cli.run(command))
    print("=" * 9, len(codes), file=sys.stderr)
names = ("rows", "tokens", "targets")
for command, batches in kept.items():
    arrays = {f"{name}{i}": array for i, batch in enumerate(batches) for name, array in zip(names, batch)}
    np.savez(f"{folder}/{number}-{command}.npz", **arrays)
print(json.dumps(codes))
"""


class Said(NamedTuple):
    """What a process left."""

    code: int
    out: str
    err: str


def free_port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def start(programs, *, devices=1, **environment):
    """Each list of arguments as a process of its own, with the numbers of a cluster in its environment."""
    port = free_port()
    cluster = {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": str(len(programs))}
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    base = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, **cluster, **environment}
    return [
        subprocess.Popen(
            [sys.executable, *map(str, program)],
            env={**base, "JAX_PROCESS_ID": str(number)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number, program in enumerate(programs)
    ]


def finish(processes, seconds=300):
    """What all of them left; none outlives this."""
    try:
        return [
            Said(process.returncode, *said) for process in processes if (said := process.communicate(timeout=seconds))
        ]
    finally:
        for process in processes:
            process.kill()


def drive(folder, commands, *, devices=1, stopped=-1):
    """The commands of each process: their exit codes, and what was said. In one of them the last process is stopped."""
    programs = []
    for number, own in enumerate(commands):
        text = json.dumps([list(map(str, command)) for command in own])
        programs.append(["-c", DRIVER, folder, number, text, stopped if number == len(commands) - 1 else -1])
    said = finish(start(programs, devices=devices))
    assert all(one.code == 0 for one in said), said
    return [json.loads(one.out.splitlines()[-1]) for one in said], said


def batches(folder, count, command):
    """The batches that `count` processes put together in a command, each once: (tokens, targets), in their order."""
    parts = [dict(np.load(folder / f"{number}-{command}.npz")) for number in range(count)]
    made = []
    for i in range(len(parts[0]) // 3):
        rows = np.concatenate([part[f"rows{i}"] for part in parts])
        assert sorted(rows.tolist()) == list(range(len(rows))), "every row is made by one process"
        order = np.argsort(rows)
        made.append([np.concatenate([part[f"{name}{i}"] for part in parts])[order] for name in ("tokens", "targets")])
    return made
