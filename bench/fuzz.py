"""Lets atheris (libFuzzer) look for files that break a parser: those of tests/hostile, one process each.

    pip install 'bertjax[fuzz,test]'
    python bench/fuzz.py TARGET ... | all  [--seconds 60] [--out bench/results]

It begins with the valid files of a target and changes them by what it sees of the branches taken in bertjax. A finding
is a file that raises anything but a UserError, takes over 10 seconds or 2 GB; it is kept in findings/TARGET/ and shown
with its traceback: `python bench/fuzz.py TARGET --file FILE` reads it again. `--list` names the targets. With any
finding it ends with 1.
With `all` the table goes to OUT/fuzz.md too, as JSON to OUT/fuzz.json.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import results

TESTS = results.ROOT / "tests"
HEAD = ("target", "files tried", "CPU-seconds", "branches seen", "findings")
FOUND = Path("findings")


def main() -> None:
    """Fuzzes each target; a line for each, when it is done."""
    arguments = _arguments()
    sys.path[:0] = [str(TESTS), str(TESTS / "hostile")]
    if arguments.worker:
        return _fuzz(arguments.targets[0], arguments.seconds)
    if arguments.list or not arguments.targets:
        return print("\n".join(_targets()))
    if arguments.file:
        return print(_targets()[arguments.targets[0]](Path(arguments.file).read_bytes()) or "read")
    known, everything = _targets(), arguments.targets == ["all"]
    if unknown := [name for name in arguments.targets if not everything and name not in known]:
        sys.exit(f"bench/fuzz.py: there is no target {unknown[0]!r}; --list names them")
    if not find_spec("atheris"):
        sys.exit("bench/fuzz.py: needs atheris: pip install 'bertjax[fuzz,test]'")
    rows = []
    print(*results.table(HEAD, rows), sep="\n")
    for name in known if everything else arguments.targets:
        rows.append(_run(name, arguments.seconds))
        print(results.table(HEAD, rows)[-1], flush=True)
    if everything:
        results.write(arguments.out, "fuzz", results.table(HEAD, rows), {"rows": rows})
    sys.exit(any(found != "none" for *_, found in rows))


def _arguments() -> argparse.Namespace:
    parser = results.parser(__doc__)
    parser.add_argument("targets", nargs="*")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--file", default="")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--worker", action="store_true", help=results.HIDDEN)
    return parser.parse_args()


def _targets() -> dict[str, Any]:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from targets import TARGETS
    from task_targets import RUN_TARGETS, TASK_TARGETS

    return {**TARGETS, **TASK_TARGETS, **RUN_TARGETS}


def _fuzz(name: str, seconds: int) -> None:
    """Does not return: libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["bertjax"], enable_loader_override=False):
        target = _targets()[name]
    with tempfile.TemporaryDirectory() as seeds:
        for number, data in enumerate(target.seeds()):
            (Path(seeds) / str(number)).write_bytes(data)
        options = {"max_total_time": seconds, "timeout": 10, "rss_limit_mb": 2048, "max_len": 20_000}
        options |= {"print_final_stats": 1, "artifact_prefix": f"{FOUND / name}/", "verbosity": 1}
        command = [sys.argv[0], *(f"-{key}={value}" for key, value in options.items()), seeds]
        atheris.Setup(command, target)
        atheris.Fuzz()


def _run(name: str, seconds: int) -> tuple[str, ...]:
    (FOUND / name).mkdir(parents=True, exist_ok=True)
    command = [sys.executable, __file__, name, "--worker", "--seconds", str(seconds)]
    before = os.times()
    memory = Path("/dev/shm")  # files are written and read by the thousand
    environment = {**os.environ, **({"TMPDIR": str(memory)} if memory.is_dir() else {})}
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment)
    after = os.times()
    text = done.stdout + done.stderr
    tried = re.search(r"stat::number_of_executed_units:\s*(\d+)", text)
    branches = re.findall(r" cov: (\d+)", text)
    kept = sorted(file.name for file in (FOUND / name).iterdir() if file.stat().st_mtime > time.time() - seconds - 600)
    if done.returncode:
        print(f"{name}: {text[-3_000:]}", file=sys.stderr)
    spent = after.children_user - before.children_user
    found = ", ".join(kept) if kept else "none" if done.returncode == 0 else f"exit {done.returncode}"
    return name, f"{int(tried[1]):,}" if tried else "?", f"{spent:.0f}", branches[-1] if branches else "?", found


if __name__ == "__main__":
    main()
