"""Where a table goes, and how it came about: OUT/NAME.json with every figure, OUT/NAME.md and the screen.

Needs the standard library alone, so that what runs in an environment of others may import it.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PRESETS = ("tiny", "mini", "small", "medium", "base", "large")
HIDDEN = argparse.SUPPRESS  # the help of what a script tells its own processes
DECIDE = ("jax", "jaxlib", "flax", "numpy", "torch", "transformers", "keras", "keras-hub", "datasets", "atheris")


def parser(about: str | None) -> argparse.ArgumentParser:
    """Options of a script, --out among them; `about` is its docstring."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--out", type=folder, default=ROOT / "bench/results", help="the folder of the table")
    return made


def folder(text: str) -> Path:
    """An option that names a folder to write in, which is made: what is measured for long must have a place."""
    path = Path(text)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error.strerror}") from None
    if not os.access(path, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text} cannot be written")
    return path


def count(text: str) -> int:
    """An option that is a number from 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1")
    return int(text)


def python(text: str) -> str:
    """An option that names the Python of an environment."""
    if not shutil.which(text):
        raise argparse.ArgumentTypeError(f"there is no program {text}")
    return text


def write(
    out: Path,
    name: str,
    lines: Sequence[str],
    figures: dict[str, Any],
    programs: dict[str, dict[str, str]] | None = None,
) -> None:
    """The lines of a table and its figures, with command, machine, commit and the versions of the programs."""
    about = origin(programs or {"bertjax": versions(sys.executable)})
    text = "\n".join([f"# {name}", "", *lines, "", *notes(about)])
    print(text, flush=True)
    (out / f"{name}.json").write_text(json.dumps(about | figures, indent=1) + "\n")
    (out / f"{name}.md").write_text(text + "\n")


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """The lines of a table in Markdown."""
    first, *others = (f"| {' | '.join(map(str, row))} |" for row in (head, *rows))
    return [first, "|" + "---|" * len(head), *others]


def spread(values: Iterable[float], digits: int = 3) -> str:
    """The median, and from least to most."""
    values = sorted(values)
    return f"{statistics.median(values):.{digits}f} ({values[0]:.{digits}f} to {values[-1]:.{digits}f})"


def command() -> str:
    """What was typed, with the cores it was bound to; other programs and absolute paths stand as what they are for."""
    words, option = ["python", os.path.relpath(sys.argv[0], ROOT)], ""
    for word in sys.argv[1:]:
        option = word if word.startswith("--") else option
        words.append(_for(word.removeprefix(f"{ROOT}/"), option))
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    bound = 0 < len(cores) < (os.cpu_count() or 1)
    return " ".join(["taskset", "-c", ",".join(map(str, cores)), *words] if bound else words)


def _for(word: str, option: str) -> str:
    if os.path.isfile(word) and os.access(word, os.X_OK):
        return "PYTHON"
    return (option.lstrip("-").upper() or "PATH") if os.path.isabs(word) else word


def origin(programs: dict[str, dict[str, str]]) -> dict[str, Any]:
    """How figures come about: command, day, commit, machine, and the versions of the programs.

    Where the code has been changed since the commit that is told.
    """
    git = ["git", "-C", str(ROOT)]
    try:
        commit = subprocess.check_output([*git, "rev-parse", "--short", "HEAD"], text=True).strip()
        changed = subprocess.call([*git, "diff", "--quiet", "HEAD", "--", "bertjax", "bench", ":!bench/results"])
    except (OSError, subprocess.CalledProcessError):
        commit, changed = "unknown", 0
    commit += " with changes" * bool(changed)
    day = f"{datetime.now(UTC):%Y-%m-%d}"
    return {"command": command(), "date": day, "commit": commit, "machine": machine(), "versions": programs}


def notes(about: dict[str, Any]) -> list[str]:
    """The same as the last lines of a page."""
    at = about["machine"]
    return [
        f"- `{about['command']}`; {about['date']}, commit {about['commit']}",
        f"- {at['cpu']}, {at['cores']} cores, load {at['load'][0]:.1f}",
        *(f"- {program}: {', '.join(map(' '.join, found.items()))}" for program, found in about["versions"].items()),
    ]


def machine() -> dict[str, Any]:
    """Its processor, cores and load."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    cpu = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())
    return {"cpu": cpu, "cores": os.cpu_count(), "load": os.getloadavg()}


def versions(python: str) -> dict[str, str]:
    """Of what decides the figures, in the environment of a python."""
    code = (
        "import importlib.metadata as m, json\n"
        f"found = {{d.name.lower(): d.version for d in m.distributions() if d.name.lower() in {DECIDE}}}\n"
        "print(json.dumps(dict(sorted(found.items()))))"
    )
    return json.loads(subprocess.check_output([python, "-c", code]))


def peak_mib() -> float:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
