"""One accelerator, at most 10 minutes: is every way to attend right, how fast are base and large, does a model learn.

    python bench/gpu.py [--out FOLDER] [--minutes 9.5] [--torch PYTHON] [--parts PART ...] [--toy]

Needs jax for the device, flax, optax, orbax-checkpoint, numpy and jaxtyping, and nothing else that bertjax does; with
torch (in this Python, or PYTHON) its own BERT is measured beside, compiled, with scaled_dot_product_attention. Parts
run one after the other, each in a process of its own, which has the device to itself:

- ways: einsum, cudnn and splash in bfloat16 and einsum in float32, against einsum in float32: packed rows, outputs and
  gradients, compiled as in a training step. Errors are of the largest value, and may be 2% in bfloat16.
- speed: training steps of BERT-base and large in bfloat16, rows of 128 and packed rows of 512; tokens are all real. MFU
  is the model's work (`flops_per_token`: attention over the whole row; the MLM head, and all but keys and values of the
  last layer, at masked positions only) of the chip's dense bfloat16 peak; without a known peak there are TFLOP/s. The
  rate is the median of five windows, `spread` how far these are apart; `same_twice`: three steps gave the same bits
  twice. The four programs are compiled at the same time, `compile_seconds` is what each took so.
- torch: the same, with the MLM head at masked positions, and a mask for packed rows. It computes its last layer whole,
  and that is counted as its work.
- pretraining: BERT-base on the words of two novels for five minutes, or what is left; its loss every few seconds.
- speed-more, torch-more: with what is then left, steps that need not be repeatable, einsum for attention, and torch
  with its model compiled whole.

What no time was left for is told, and so is what fails, while the rest goes on. --parts: only these, as the last two
in a command of their own. --toy: sizes for a CPU, to see that it runs. FOLDER/gpu.json and gpu.md are written anew with
every line; gpu.log has what the parts wrote to stderr. The exit code is 1 where something failed or is wrong, 2 where
there is no accelerator.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import results

LOG = "gpu.log"
WORKERS = Path(__file__).parent / "workers"
SLACK = 10  # seconds that a part may take longer than it was told to
LIKELY = r"[\w.]*(Error|Exception|Interrupt|Exit)\b|(\w+\.)+[A-Z]\w+: |F\d{4} |Fatal "  # begins what ended a process
LEAST = 10  # seconds for which no part is begun

Sizes = list[dict[str, Any]]


class Part(NamedTuple):
    """A worker, the seconds that it may take, and the batches that it measures: `Size` in workers/gpu_shared.py."""

    worker: str
    most: float
    sizes: Sizes
    toy: Sizes


BATCHES: Sizes = [
    {"model": "base", "rows": 256, "length": 128},
    {"model": "base", "rows": 64, "length": 512, "sequences": 4},
    {"model": "large", "rows": 128, "length": 128},
    {"model": "large", "rows": 32, "length": 512, "sequences": 4},
]
TOY: Sizes = [{"model": "tiny", "rows": 4, "length": 128}]


def _with(sizes: Sizes, **how: object) -> Sizes:
    return [size | how for size in sizes]


# Compiling for a described H100 takes 144 CPU-s for the four batches. Nothing here has been timed on a GPU: were the
# first three to take all they may, pretraining would have two and a half minutes; else what they leave is its own.
PARTS = {
    "ways": Part("gpu_ways.py", 60, [], []),
    "speed": Part("gpu_speed.py", 170, BATCHES, TOY),
    "torch": Part("gpu_torch.py", 150, BATCHES, TOY),
    "pretraining": Part("gpu_pretraining.py", 350, [], []),
    "speed-more": Part(
        "gpu_speed.py",
        600,
        _with(BATCHES[:2], repeatable=False) + _with(BATCHES, attention="einsum"),
        _with(TOY, repeatable=False) + _with(TOY, attention="einsum"),
    ),
    "torch-more": Part("gpu_torch.py", 600, _with(BATCHES, whole=True), _with(TOY, whole=True)),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the parts and writes what they found; the exit code."""
    parser = results.parser(__doc__)
    parser.add_argument("--minutes", type=float, default=9.5)
    parser.add_argument("--torch", default=sys.executable)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--toy", action="store_true")
    options = parser.parse_args(arguments)
    end = time.time() + 60 * options.minutes - SLACK
    obstacle = "" if options.toy else without_accelerator()
    if obstacle:
        print(f"bench/gpu.py: {obstacle}", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / LOG).unlink(missing_ok=True)
    found = results.origin({"bertjax": results.versions(sys.executable)}) | {"parts": {}}
    for name in options.parts:
        result = found["parts"][name] = {"lines": [], "ended": "", "crashed": False}
        until = min(time.time() + PARTS[name].most, end)
        if until - time.time() < LEAST:
            result["ended"] = "no time was left"
        else:
            print(f"{name}: at most {until - time.time():.0f} s", flush=True)
            _run(name, until, options, result, lambda: write(found, options.out))
        if result["ended"]:
            print("  ", result["ended"], flush=True)
        write(found, options.out)
    print(table(found))
    return int(any(map(failed, found["parts"].values())))


def without_accelerator() -> str:
    """Why there is none; asked in a process of its own, as this one must not hold the device."""
    ask = "import jax; print(jax.devices()[0].platform)"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, env=_environment())
    if done.returncode:
        return f"JAX finds no device: {reason(done.stderr)}"
    if done.stdout.split()[-1] == "cpu":
        why = done.stderr.strip().splitlines()[-1:]
        return f"JAX finds no accelerator here, only a CPU; --toy runs on one{''.join(f' ({line})' for line in why)}"
    return ""


def _environment() -> dict[str, str]:
    path = os.pathsep.join([str(WORKERS.parent.parent), os.environ.get("PYTHONPATH", "")])
    # Whole tracebacks, as JAX otherwise ends them with a remark of its own.
    return {**os.environ, "PYTHONPATH": path, "JAX_TRACEBACK_FILTERING": "off"}


def _run(
    name: str, until: float, options: argparse.Namespace, result: dict[str, Any], changed: Callable[[], None]
) -> None:
    """Adds the lines of a worker to a part's result as they come, and how it ended where it was not by itself."""
    part = PARTS[name]
    command = [options.torch if part.worker == "gpu_torch.py" else sys.executable, str(WORKERS / part.worker)]
    command += ["--until", str(until), "--sizes", json.dumps(part.toy if options.toy else part.sizes)]
    command += ["--toy"] * options.toy
    log, began = options.out / LOG, time.time()
    before = log.stat().st_size if log.exists() else 0
    with log.open("ab") as errors:
        code = _listen(command, errors, until + SLACK, result["lines"], changed)
    why = reason(log.read_bytes()[before:].decode(errors="replace"))
    if code is None:
        result["ended"] = f"stopped after {time.time() - began:.0f} s"
    elif code:
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        result.update(ended=f"crashed, {how}: {why}", crashed=True)


def _listen(
    command: list[str], errors: IO[bytes], end: float, lines: list[dict[str, Any]], changed: Callable[[], None]
) -> int | None:
    """The exit code of a process whose lines are heard as they come; None where it was killed at `end`."""
    # A group of its own, so that the compilers which torch starts end with it.
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=errors, text=True, env=_environment(), process_group=0
    ) as process:
        reader = threading.Thread(target=_hear, args=(process.stdout, lines, changed))
        reader.start()
        try:
            return process.wait(timeout=max(0, end - time.time()))
        except subprocess.TimeoutExpired:
            return None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            reader.join()


def _hear(said: IO[str], lines: list[dict[str, Any]], changed: Callable[[], None]) -> None:
    for text in said:
        with suppress(ValueError):  # a library's, or cut where its process was killed
            if text.startswith("{"):
                lines.append(json.loads(text))
                print("  ", text.strip(), flush=True)
                changed()


def reason(errors: str) -> str:
    """Of what a process wrote to stderr the last line that looks like an error, or else the last."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    likely = [line for line in lines if re.match(LIKELY, line)]
    return (likely or lines or ["it wrote nothing"])[-1][:400]


def failed(result: dict[str, Any]) -> bool:
    """Whether a part crashed, or something in it failed or is wrong; that there was no time is no failure."""
    return result["crashed"] or any("failed" in line or line.get("right") is False for line in result["lines"])


def write(found: dict[str, Any], out: Path) -> None:
    """All that was found so far, to gpu.json and gpu.md; either is whole at any moment."""
    for name, text in (("gpu.json", json.dumps(found, indent=1) + "\n"), ("gpu.md", table(found))):
        beside = out / f"{name}.new"
        beside.write_text(text)
        beside.replace(out / name)


def table(found: dict[str, Any]) -> str:
    """All parts in Markdown."""
    lines = ["# gpu", ""]
    for part, result in found["parts"].items():
        lines += [f"## {part}", ""]
        if result["lines"]:
            names = list(dict.fromkeys(name for line in result["lines"] for name in line))
            rows = ([str(line.get(name, "")).replace("|", "\\|") for name in names] for line in result["lines"])
            lines += [*results.table(names, rows), ""]
        if result["ended"]:
            lines += [result["ended"], ""]
    return "\n".join([*lines, *results.notes(found)]) + "\n"


def run_to_the_end() -> None:
    """As a command, whose worker ends where it is ended."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main())


if __name__ == "__main__":
    run_to_the_end()
