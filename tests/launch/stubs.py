"""Programs of clouds and clusters that are not here: calls are kept, answers are read from files."""

import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

# `describe` takes its answers from states.json, the last one again and again; DEAD is a queued resource that is ACTIVE
# while its node was preempted. `ssh` runs in a folder for each worker, two of them, with a share for both. `delete`
# takes what ran there with it, and what was on the disks. `scp` sends to both, and keeps a copy. fails.json says how
# many of the next calls of each of these fail, and perhaps with which words.
GCLOUD = """
import fcntl, json, os, shutil, subprocess, sys
from pathlib import Path

here, arguments = Path(os.environ["STUBS"]), sys.argv[1:]
workers = sorted(here.glob("worker-*"))
with (here / "gcloud.jsonl").open("a") as calls:
    calls.write(json.dumps(arguments) + "\\n")
print("WARNING: this command is using service account impersonation", file=sys.stderr)
fails = json.loads((here / "fails.json").read_text())
word = next(word for word in ("create", "describe", "delete", "scp", "ssh") if word in arguments)
if fails.get(word, 0):
    fails[word] -= 1
    (here / "fails.json").write_text(json.dumps(fails))
    sys.exit("ERROR: (gcloud) " + fails.get("words", "503: try again later"))
states, dead = here / "states.json", here / "dead"
if "describe" in arguments:
    first, *rest = json.loads(states.read_text())
    states.write_text(json.dumps(rest or [first]))
    dead.touch() if first == "DEAD" else dead.unlink(missing_ok=True)
    if first == "MISSING":
        sys.exit("ERROR: NOT_FOUND: no such queued resource")
    print(first.replace("DEAD", "ACTIVE"))
elif "delete" in arguments:
    for worker in workers:
        if (worker / "bertjax.pid").exists():
            subprocess.run(["pkill", "-KILL", "-s", (worker / "bertjax.pid").read_text().strip()])
        for path in worker.glob("bertjax.*"):
            path.unlink()
elif "scp" in arguments:
    for folder in (here, *workers):
        source, target = arguments[arguments.index("scp") + 1 :][:2]
        shutil.copy(source, folder / target.removeprefix("mine:"))
elif "ssh" in arguments:
    if dead.exists():
        sys.exit('ERROR: (gcloud) This TPU has terminal state "PREEMPTED", so it cannot be used anymore.')
    command = next(a for a in arguments if a.startswith("--command=")).removeprefix("--command=")
    if "sudo mount " in command:
        command = command.replace("/mnt/share", str(here / "share"))
    with (here / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run = [subprocess.run(["bash", "-c", command], cwd=w, env={**os.environ, "HOME": str(w)}) for w in workers]
    sys.exit(max(one.returncode for one in run))
"""

# Exits as exits.json says for this start of it, of each worker or of both; "wait": only when it gets SIGTERM; "vanish":
# with all that runs on its worker, or on both, between two looks at them.
BERTJAX = """
import fcntl, json, os, signal, sys, time
from pathlib import Path

here = Path(os.environ["STUBS"])
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
with (here / "bertjax.jsonl").open("a") as calls:
    seen = {name: value for name, value in os.environ.items() if name.startswith("JAX_")}
    calls.write(json.dumps([os.getcwd(), sys.argv[1:], seen]) + "\\n")
starts = Path("starts")
number = int(starts.read_text()) if starts.exists() else 0
starts.write_text(str(number + 1))
exits = json.loads((here / "exits.json").read_text())
end = exits[number]
if isinstance(end, list):
    end = end[int(Path.cwd().parent.name.removeprefix("worker-"))]
if end == "wait":
    signal.sigwait([signal.SIGTERM])
    sys.exit(42)
if end == "vanish":
    workers = [Path.cwd()] if isinstance(exits[number], list) else [*here.glob(f"worker-*/{Path.cwd().name}")]
    while not all((worker / "starts").exists() for worker in workers):
        time.sleep(0.01)
    lock = (here / "lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    if os.fork() == 0:  # a child has the lock too, until they are gone
        os.setsid()
        groups = [int((worker.parent / "bertjax.pid").read_text()) for worker in workers]
        for group in groups:
            os.killpg(group, signal.SIGKILL)
        while any(Path(f"/proc/{group}").exists() for group in groups):
            time.sleep(0.01)
        os._exit(0)
    signal.pause()
sys.exit(end)
"""

RECORD = """
import json, os, sys
from pathlib import Path

name = Path(sys.argv[0]).name
with (Path(os.environ["STUBS"]) / f"{name}.jsonl").open("a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
"""

# Ends with the highest code of its tasks, SRUN_EXITS, as srun does; keeps what they see as JAX_PLATFORMS.
SRUN = (
    RECORD
    + """
(Path(os.environ["STUBS"]) / "platforms").write_text(os.environ["JAX_PLATFORMS"])
sys.exit(max(map(int, os.environ["SRUN_EXITS"].split())))
"""
)

# What the launchers start by `python -m bertjax.supervise`, without the pauses.
PYTHON = f"""#!/bin/sh
shift 2
PYTHONPATH="{ROOT}" exec "{sys.executable}" -m bertjax.supervise --pause 0.01 "$@"
"""


def install(folder, *, states=(), exits=(0,), fails=None, **programs):
    """Writes the programs; the environment in which they are found before those of the machine."""
    # `sudo` mounts and installs nothing; `python3` has pip and uv, which find all there.
    sudo = '#!/bin/sh\necho "$*" >>"$STUBS/sudo"\ncase "$1" in mount | apt-get) exit 0 ;; esac\nexec "$@"\n'
    done = "#!/bin/sh\nexit 0\n"
    ours = {"gcloud": GCLOUD, "bertjax": BERTJAX, "sudo": sudo, "python": PYTHON, "python3": done}
    programs = {**ours, **programs}
    (folder / "bin").mkdir()
    for name, text in programs.items():
        path = folder / "bin" / name
        path.write_text(text if text.startswith("#!") else f"#!{sys.executable}\n{text}")
        path.chmod(0o755)
    for number in range(2):
        for name in ("bertjax", "venv"):
            (folder / f"worker-{number}" / name).mkdir(parents=True)
    (folder / "states.json").write_text(json.dumps(states))
    (folder / "exits.json").write_text(json.dumps(exits))
    (folder / "fails.json").write_text(json.dumps(fails or {}))
    return {**os.environ, "STUBS": str(folder), "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}


def calls(folder, program):
    """The arguments of every call of a program."""
    path = folder / f"{program}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
