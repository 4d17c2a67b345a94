"""The command line in processes that cost no imports: each is forked from one that has made them, and no more."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

# Forks for every line that asks it to. JAX starts its threads with its first device, which is after the fork.
SERVER = """
import json, os, sys
from bertjax import api, cli, config, convert, doctor, preparation, report, run, session, suite
from bertjax.data import loader
from bertjax.plan import verb
import grain, pathlib, time, tyro
for line in sys.stdin:
    asked = json.loads(line)
    if "wait" in asked:
        pid, status = os.waitpid(asked["wait"], os.WNOHANG)
        answer = os.waitstatus_to_exitcode(status) if pid else None
    elif not (answer := os.fork()):
        os.environ.update(asked["environment"])
        for number, name in enumerate((os.devnull, asked["err"], asked["err"])):
            os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_APPEND), number)
        os.setsid()
        sys.argv = ["bertjax", *asked["command"]]
        exec(asked["before"], {"HERE": pathlib.Path(asked["err"] + ".here")})
        cli.main()
    print(json.dumps(answer), flush=True)
"""


class Child:
    """A forked process; what it says is in a file."""

    def __init__(self, zygote, pid, err):
        self._zygote, self._code, self.pid, self._err = zygote, None, pid, err

    @property
    def err(self):
        return self._err.read_text() if self._err.exists() else ""

    @property
    def code(self):
        """None while it runs; a signal as a negative number."""
        if self._code is None:
            self._code = self._zygote.ask(wait=self.pid)
        return self._code

    def send_signal(self, number):
        if self.code is None:
            os.kill(self.pid, number)

    def reached(self, seconds=300):
        """Returns when it has touched HERE."""
        self.until(Path(f"{self._err}.here").exists, seconds)

    def until(self, true, seconds=300):
        end = time.monotonic() + seconds
        while not true() and time.monotonic() < end:
            assert self.code is None, self.err
            time.sleep(0.01)
        assert true(), self.err

    def ended(self, seconds=120):
        """Its exit code, and the seconds it took from now."""
        began = time.monotonic()
        while self.code is None and time.monotonic() < began + seconds:
            time.sleep(0.01)
        took = time.monotonic() - began
        self.send_signal(signal.SIGKILL)
        return self.code, took


class Zygote:
    """Starts children."""

    def __init__(self, folder):
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=1"
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
        self._server = subprocess.Popen(
            [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._folder, self._children = folder, []

    def ask(self, **what):
        self._server.stdin.write(json.dumps(what) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())

    def start(self, *command, before="", **environment):
        """`before` is run in the child before the command; HERE there is a path of its own."""
        err = self._folder / f"child-{len(self._children)}"
        pid = self.ask(command=list(map(str, command)), before=before, err=str(err), environment=environment)
        self._children.append(Child(self, pid, err))
        return self._children[-1]

    def several(self, count, *command, port, before=""):
        """The same command in processes that are one run."""
        cluster = {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": str(count)}
        return [self.start(*command, before=before, **cluster, JAX_PROCESS_ID=str(n)) for n in range(count)]

    def close(self):
        """None of the children outlives it."""
        for child in self._children:
            child.send_signal(signal.SIGKILL)
        self._server.stdin.close()
        self._server.wait(timeout=30)
        self._server.stdout.close()
