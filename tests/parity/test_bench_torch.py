"""What bench/gpu.py measures of torch, at toy size on a CPU."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "bench" / "workers"))

import gpu_torch  # noqa: E402
from gpu_shared import Size, each, slots  # noqa: E402

PACKED = {"model": "tiny", "rows": 2, "length": 64, "sequences": 2}


def test_it_says_how_fast_it_is_for_each_size_compiled_by_layer_and_whole():
    command = [
        sys.executable,
        str(ROOT / "bench" / "workers" / "gpu_torch.py"),
        "--toy",
        "--until",
        str(time.time() + 1e3),
    ]
    command += ["--sizes", json.dumps([PACKED, {"model": "tiny", "rows": 4, "length": 32, "whole": True}])]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    device, *lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert device == {"device": "cpu", "torch": torch.__version__}
    assert [(line["batch"], line["whole"]) for line in lines] == [
        ("2 x 64, 2 packed", False),
        ("4 x 32", True),
    ]
    assert all(line["tokens_per_second"] > 0 and line["right"] for line in lines)
    assert all(line["tflops_per_second"] > line["tflops_by_ours"] > 0 for line in lines)


def test_all_layers_are_one_program():
    counters = torch._dynamo.utils.counters
    for size in (Size(**PACKED), Size("tiny", 4, 32)):
        counters.clear()
        gpu_torch.measure(size, toy=True)
        assert counters["stats"]["unique_graphs"] == 3  # with the embeddings and the head
        assert not counters["graph_break"]


def test_packed_sequences_do_not_see_each_other():
    model, (ids, places, mask, *masked) = gpu_torch.Layer(16, 2), gpu_torch.inputs(Size(**PACKED), vocab=9)
    assert places[0, 31:33].tolist() == [31, 0] and ids.shape == (2, 64) and masked[0].shape == (2, slots(64))
    x = torch.randn(2, 64, 16)
    gradient = torch.autograd.functional.jacobian(lambda x: model(x, mask)[0, 40, 0], x)
    assert gradient[0, :32].abs().max() == 0 < gradient[0, 32:].abs().max()


def test_without_memory_half_the_rows_are_taken(capsys):
    def measure(size):
        if size.rows > 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return {"rate": 1}

    each([Size(**PACKED)], time.time() + 1e3, 0, measure, gpu_torch.too_large)
    assert json.loads(capsys.readouterr().out) == {"model": "tiny", "batch": "1 x 64, 2 packed", "rate": 1}
