"""One accelerator, at most 10 minutes: is every way to attend right, how fast are base and large, does a model learn.

    python bench/gpu.py [--out bench/results/gpu] [--minutes 9.5] [--torch PYTHON] [--toy]

Needs jax for the device, flax, optax, orbax-checkpoint, numpy and jaxtyping, and nothing else that bertjax does; with
torch (in this Python, or PYTHON) its own BERT is measured beside, compiled, with scaled_dot_product_attention. Parts
run one after the other, each in a process of its own, which has the device to itself; what no time is left for is told:

- ways: einsum, cudnn and splash in bfloat16 and einsum in float32, against einsum in float32: packed rows, outputs and
  gradients. Errors are of the largest value, and may be 2% in bfloat16.
- speed: training steps of BERT-base and large in bfloat16, rows of 128 and packed rows of 512; tokens are all real. MFU
  is the model's work (`flops_per_token`: attention over the whole row; the MLM head, and all but keys and values of the
  last layer, at masked positions only) of the chip's dense bfloat16 peak; without a known peak there are TFLOP/s. Steps
  are compiled to be repeatable and, for comparison, not to be; `same_twice`: three steps gave the same bits twice.
- torch: the same, with the MLM head at masked positions, and a mask for packed rows. It computes its last layer whole,
  and that is counted as its work.
- pretraining: BERT-base on the words of two novels for five minutes, or what is left; its loss every few seconds.

--toy: sizes for a CPU, to see that it runs. The results go to OUT.json, as they come, and to OUT.md.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

WORKERS = Path(__file__).parent / "workers"
PARTS = {"ways": 120, "speed": 240, "torch": 240, "pretraining": 300}  # seconds that each may take
LEFT_FOR_PRETRAINING = 150  # of which torch must not eat


def main() -> None:
    """Runs the parts and writes what they found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "gpu")
    parser.add_argument("--minutes", type=float, default=9.5)
    parser.add_argument("--torch", default=sys.executable)
    parser.add_argument("--toy", action="store_true")
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes
    options.out.parent.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"command": " ".join(["python", *sys.argv]), "parts": {}}
    for part, most in PARTS.items():
        left = end - time.monotonic() - (LEFT_FOR_PRETRAINING if part == "torch" and not options.toy else 0)
        found["parts"][part] = _run(part, min(most, left), options)
        options.out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
        options.out.with_suffix(".md").write_text(table(found))
    print(table(found))
    ways = found["parts"]["ways"]
    sys.exit(1 if ways["error"] or any(line.get("right") is False for line in ways["lines"]) else 0)


def _run(part: str, seconds: float, options: argparse.Namespace) -> dict[str, Any]:
    """The lines of JSON that a part printed until it was done or its time was over."""
    if seconds < 10:
        return {"lines": [], "error": "no time was left"}
    python, worker = (options.torch, "gpu_torch.py") if part == "torch" else (sys.executable, "gpu_ours.py")
    command = [python, str(WORKERS / worker), part, "--seconds", f"{seconds - 5:.0f}", *["--toy"] * options.toy]
    path = os.pathsep.join([str(WORKERS.parent.parent), os.environ.get("PYTHONPATH", "")])
    print(f"{part}: at most {seconds:.0f} s", flush=True)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}) as process:  # fmt: skip  # noqa: E501
        try:
            out, err = process.communicate(timeout=seconds)
            error = "" if process.returncode == 0 else err.decode()[-2000:]
        except subprocess.TimeoutExpired:
            process.kill()
            out, error = process.communicate()[0], f"stopped after {seconds:.0f} s"
    lines = [json.loads(line) for line in out.decode().splitlines() if line.startswith("{")]
    for line in lines:
        print("  ", json.dumps(line), flush=True)
    if error:
        print("  ", error, flush=True)
    return {"lines": lines, "error": error}


def table(found: dict[str, Any]) -> str:
    """All parts in Markdown."""
    text = f"`{found['command']}`\n"
    for part, result in found["parts"].items():
        lines = result["lines"]
        text += f"\n## {part}\n\n"
        if lines:
            names = list(dict.fromkeys(name for line in lines for name in line))
            text += f"| {' | '.join(names)} |\n|{'---|' * len(names)}\n"
            text += "".join(f"| {' | '.join(str(line.get(name, '')) for name in names)} |\n" for line in lines)
        if result["error"]:
            text += f"\nended early: {result['error'].splitlines()[-1]}\n"
    return text


if __name__ == "__main__":
    main()
