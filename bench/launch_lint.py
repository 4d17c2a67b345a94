"""The launchers for GKE and SkyPilot before these programs' own checks, each installed in an environment of its own.

    python bench/launch_lint.py [--folder /tmp/launch-lint]

xpk is run dry with the command that launch/jobset.yaml names, and the JobSet it writes is compared with ours;
SkyPilot reads launch/skypilot.yaml. Neither needs an account or, once installed (700 MB), a network.
"""

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
READ = """
import sky, yaml
task = sky.Task.from_yaml_config(yaml.safe_load(open("launch/skypilot.yaml")), [("BUCKET", "ours")])
try:
    sky.Task.from_yaml("launch/skypilot.yaml")
except ValueError as error:
    assert "BUCKET" in str(error)
else:
    raise SystemExit("a task without a bucket would be launched")
print(task.num_nodes, *task.resources, sorted(task.storage_mounts or task.file_mounts or {}))
"""
ENDS = (1, 2, 3, 42, 134, 137, 143)  # of bertjax.supervise, and of a pod that is killed


def environment(folder: Path, *packages: str) -> Path:
    """A virtual environment with packages; made once."""
    if not (folder / "done").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
        subprocess.run([folder / "bin/python", *install], check=True)
        (folder / "done").touch()
    return folder / "bin"


def xpk_command() -> list[str]:
    """The command in the comment at the head of launch/jobset.yaml."""
    comment = "".join(line.lstrip("# ") for line in (ROOT / "launch/jobset.yaml").open() if line.startswith("#"))
    found = re.search(r"^xpk (?:.*\\\n)*.*$", comment, re.MULTILINE)
    assert found, "launch/jobset.yaml names no xpk command"
    return shlex.split(found[0].replace("\\\n", " "))


def check_xpk(folder: Path) -> None:
    """Runs xpk dry; its pods must be as many as ours, on the same chips, and start again after the same exit codes."""
    binaries, manifest = environment(folder / "xpk", "xpk==1.16.0"), folder / "xpk.yaml"
    _, *arguments = xpk_command()
    dry = [
        "--dry-run",
        "--skip-validation",
        f"--output-manifest-file={manifest}",
        "--project=ours",
        "--zone=us-west4-a",
    ]
    done = subprocess.run(
        [binaries / "xpk", *arguments, *dry],
        env={**os.environ, "HOME": str(folder), "PATH": f"{binaries}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and manifest.exists(), done.stdout[-3000:] + done.stderr[-3000:]
    theirs, ours = (_pods(yaml.safe_load(path.read_text())) for path in (manifest, ROOT / "launch/jobset.yaml"))
    print(f"xpk: {theirs}; launch/jobset.yaml: {ours}")
    assert theirs == ours


def _pods(jobset: dict[str, Any]) -> dict[str, Any]:
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    chips = job["template"]["spec"]["nodeSelector"]
    names = ("cloud.google.com/gke-tpu-accelerator", "cloud.google.com/gke-tpu-topology")
    again = [code for code in ENDS if not _fails(job["podFailurePolicy"]["rules"], code)]
    found = {name.partition("/")[2]: chips.get(name) for name in names}
    return {"parallelism": job["parallelism"], **found, "again": again}


def _fails(rules: list[dict[str, Any]], code: int) -> bool:
    """Whether a pod's exit code fails the job for good."""
    for rule in rules:
        if "onExitCodes" in rule:
            asked = rule["onExitCodes"]
            if (code in asked["values"]) == (asked["operator"] == "In"):
                return bool(rule["action"] == "FailJob")
    return False


def check_skypilot(folder: Path) -> None:
    """SkyPilot reads the task, and refuses it without a bucket."""
    python = environment(folder / "sky", "skypilot[gcp]==0.14.1") / "python"
    home = {**os.environ, "HOME": str(folder), "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}
    done = subprocess.run([python, "-c", READ], env=home, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    print(f"skypilot: {done.stdout.splitlines()[-1]}")


def main() -> None:
    """Both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "launch-lint")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    check_xpk(folder)
    check_skypilot(folder)


if __name__ == "__main__":
    main()
