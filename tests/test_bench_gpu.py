"""bench/gpu.py at toy size on this machine's CPU, with nothing installed but what it says it needs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.late

ROOT = Path(__file__).parent.parent
# What bertjax needs elsewhere, and torch, cannot be imported.
BARE = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
"""
ABSENT = ["tokenizers", "grain", "array_record", "safetensors", "sentencepiece", "scipy", "seqeval", "sklearn", "tyro"]
ABSENT += ["zstandard", "torch"]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bare")
    (folder / "sitecustomize.py").write_text(BARE.format(names=ABSENT))
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, ROOT / "bench" / "gpu.py", "--toy", "--out", folder / "out"]
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "## pretraining" in (folder / "out.md").read_text()
    parts = json.loads((folder / "out.json").read_text())["parts"]
    assert not any(part["error"] for part in parts.values())
    return {name: part["lines"] for name, part in parts.items()}


def test_every_way_that_is_there_is_right(found):
    right = {(line["way"], line["dtype"]) for line in found["ways"] if line.get("right")}
    assert right == {(way, dtype) for way in ("einsum", "splash") for dtype in ("bfloat16", "float32")}
    assert all("needs an NVIDIA GPU" in line["not_here"] for line in found["ways"] if line["way"] == "cudnn")


def test_speed(found):
    _, *sizes = found["speed"]
    assert [(line["attention"], line["repeatable"]) for line in sizes] == [
        ("einsum", kind) for kind in (True, False, True)
    ]
    assert all(line["same_twice"] for line in sizes)  # as on a CPU all are
    assert all(line["tokens_per_second"] > 0 and line["tflops_per_second"] > 0 for line in sizes)


def test_without_torch_it_is_left_out(found):
    assert found["torch"] == [{"not_here": "torch is not installed"}]


def test_a_model_learns(found):
    steps = [line["step"] for line in found["pretraining"]]
    assert steps == [20, 40, 60]
    assert found["pretraining"][-1]["held_out"] < found["pretraining"][0]["held_out"] - 0.05
