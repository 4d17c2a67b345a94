"""Every command of the README runs, in its order, as a reader would type it."""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"```(bash|python)\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
USERS = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}  # compiled as for them
SHELL = [text for kind, text in BLOCKS if kind == "bash"]


def test_the_first_two_commands_are_the_quickstart_and_the_tests():
    assert SHELL[:2] == ["./launch/quickstart.sh\n", "./launch/test.sh\n"]
    assert "launch/test.sh" in (ROOT / ".ci/run").read_text()


def test_every_module_stands_where_things_are():
    rows = re.findall(r"^\| (`bertjax/.*) \| (.*) \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    told = set()
    for names, about in rows:
        for name in re.findall("`(.*?)`", names):
            words = re.findall(r"\w+", about.lower())
            told |= {f"{name}{word}.py" for word in words} if name.endswith("/") else {name.removeprefix("bertjax/")}
    paths = [path.relative_to(ROOT / "bertjax").as_posix() for path in (ROOT / "bertjax").rglob("[!_]*.py")]
    assert {path if "/" not in path else f"bertjax/{path}" for path in paths} <= told
    assert {name for name in told if "/" not in name} <= set(paths)


@pytest.mark.late
def test_the_commands_step_by_step(tmp_path):
    for name in ("configs", "sample_data"):
        (tmp_path / name).symlink_to(ROOT / name)
    environment = {**USERS, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    script = "set -euo pipefail\n" + "".join(SHELL[2:])
    script += "\n".join(f"python - <<'EOF'\n{text}EOF\n" for kind, text in BLOCKS if kind == "python")
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len((tmp_path / "runs/predictions.tsv").read_text().splitlines()) == 3
    assert (tmp_path / "runs/both/checkpoints/4").is_dir(), done.stderr[-3000:]  # by two processes
    assert "masked accuracy" in done.stdout + done.stderr
    assert len(re.findall(r"^0\.\d{3}  he looked at the ", done.stdout, re.MULTILINE)) == 5


def test_the_plan_for_tpus_runs_or_says_what_to_install(tmp_path):
    (command,) = re.findall(r"```console\n\$ (.*)\n```", (ROOT / "README.md").read_text())
    environment = {**USERS, "XDG_CACHE_HOME": str(tmp_path)}
    words = [sys.executable, "-m", *command.replace("configs/", f"{ROOT}/configs/").split()]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    if find_spec("libtpu"):
        assert done.returncode == 0 and (tmp_path / "plan-v5e-2x4.json").exists(), done.stderr
    else:
        assert done.returncode == 2 and "pip install 'bertjax[tpu]'" in done.stderr


@pytest.mark.slow
def test_the_quickstart_ends_with_a_table_that_pretraining_wins(tmp_path):
    done = subprocess.run([ROOT / "launch/quickstart.sh", tmp_path], env=USERS, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    names = ("pretrained", "random")
    pretrained, random = (json.loads((tmp_path / f"spam-{name}/scores.json").read_text())["metrics"] for name in names)
    assert pretrained["f1"] > random["f1"] + 0.05
    report = (tmp_path / "report.txt").read_text()
    shown = ("masked accuracy", "sentence accuracy", "accuracy", f"{pretrained['f1']:.4f}", f"{random['f1']:.4f}")
    assert all(text in report for text in (*shown, "tfidf")), report
    assert "Next: bertjax" in done.stdout


@pytest.mark.slow
def test_the_test_command_lints_and_collects():
    done = subprocess.run([ROOT / "launch/test.sh", "--collect-only", "-q"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "tests collected" in done.stdout
