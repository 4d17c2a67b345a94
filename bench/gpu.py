"""One accelerator, at most 10 minutes: is every way to attend right, how fast are base and large, does a model learn.

    python bench/gpu.py [--out FOLDER] [--minutes 9.5] [--torch PYTHON] [--parts PART ...] [--toy]

Needs jax for the device, flax, optax, orbax-checkpoint, numpy and jaxtyping, and nothing else that bertjax does; with
torch (in this Python, or PYTHON) its own BERT is measured beside, compiled, with scaled_dot_product_attention. Parts
run one after the other, each in a process of its own, which has the device to itself:

- ways: einsum, cudnn and splash in bfloat16 and einsum in float32, against einsum in float32: packed rows where all
  places ask, where some do, and with a window; outputs and gradients, compiled as in a training step. Errors are of the
  largest value, and may be 2% in bfloat16.
- speed: training steps of BERT-base and large in bfloat16, rows of 128 and packed rows of 512; tokens are all real. MFU
  is the model's work (`flops_per_token`: attention over the whole row; the MLM head, and all but keys and values of the
  last layer, at masked positions only) of the chip's dense bfloat16 peak; without a known peak there are TFLOP/s. The
  rate is the median of five windows, `spread` how far these are apart; `same_twice`: three steps gave the same bits
  twice, which is wrong not to be so where the step is repeatable. The four programs are compiled at the same time,
  `compile_seconds` is what each took so.
- pretraining: BERT-base on the words of two novels, for two and a half minutes at most; its losses every few seconds.
  These are 187,000 words, six steps, so it will know them by heart: it ends where the held-out loss has not been lower
  for a while. The last line has the best, which is to be clearly below the first.
- torch: the same steps as in speed, with the MLM head at masked positions, and a mask for packed rows. It computes its
  last layer whole, and that is counted as its work; `mfu_by_ours` counts what bertjax computes.
- speed-more, torch-more: steps that need not be repeatable, einsum for attention, and torch with its model compiled
  whole.

The minutes are shared out: each part may take its share, and what those before it left of theirs. --parts: only these,
which then share all. What no time was left for is told, and so is what fails or is killed for taking longer, while the
rest goes on. --toy: sizes for a CPU, to see that it runs. FOLDER/gpu.json and gpu.md are written anew with every line;
gpu.log has what the parts wrote to stderr. The exit code is 1 where something failed, is wrong or was killed, or where
there was no time for all of ways or pretraining; 2 where there is no accelerator.
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
CHECKS = ("ways", "pretraining")  # parts that say whether something is right, and must come to it

Sizes = list[dict[str, Any]]


class Part(NamedTuple):
    """A worker, its share of the time, and the batches that it measures: `Size` in workers/gpu_shared.py."""

    worker: str
    share: float  # seconds of the 560 of ten minutes
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


# Compiling for a described H100 takes 144 CPU-s for the four batches. Nothing here has been timed on a GPU.
PARTS = {
    "ways": Part("gpu_ways.py", 70, [], []),
    "speed": Part("gpu_speed.py", 150, BATCHES, TOY),
    "pretraining": Part("gpu_pretraining.py", 130, [], []),
    "torch": Part("gpu_torch.py", 110, BATCHES, TOY),
    "speed-more": Part(
        "gpu_speed.py",
        70,
        _with(BATCHES[:2], repeatable=False) + _with(BATCHES, attention="einsum"),
        _with(TOY, repeatable=False) + _with(TOY, attention="einsum"),
    ),
    "torch-more": Part("gpu_torch.py", 30, _with(BATCHES, whole=True), _with(TOY, whole=True)),
}

UNLIKE = (
    "`mfu_by_ours` (or `tflops_by_ours`) is torch's rate by the work that bertjax does, whose last layer is computed "
    "where it is read. What differs besides: in torch's favour, rows of one sequence have no mask and packed rows one "
    "for all, gradients are neither clipped nor looked at and need not be the same twice, and there are no types; in "
    "bertjax's, what is added from layer to layer is bfloat16, which autocast leaves in float32."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the parts and writes what they found; the exit code."""
    parser = results.parser(__doc__)
    parser.add_argument("--minutes", type=float, default=9.5)
    parser.add_argument("--torch", type=results.python, default=sys.executable)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--toy", action="store_true")
    options = parser.parse_args(arguments)
    end = time.time() + 60 * options.minutes - SLACK
    obstacle = "" if options.toy else without_accelerator()
    if obstacle:
        print(f"bench/gpu.py: {obstacle}", file=sys.stderr)
        return 2
    (options.out / LOG).unlink(missing_ok=True)
    found = results.origin({"bertjax": results.versions(sys.executable)}) | {"parts": {}}
    for name, until in deadlines(options.parts, time.time(), end).items():
        result = found["parts"][name] = {"lines": [], "ended": "", "broken": False}
        if until - time.time() < LEAST:
            result["ended"] = "no time was left"
        else:
            print(f"{name}: at most {until - time.time():.0f} s", flush=True)
            _run(name, until, options, result, lambda: write(found, options.out))
        if result["ended"]:
            print("  ", result["ended"], flush=True)
        write(found, options.out)
    print(table(found))
    return int(any(failed(name, result) for name, result in found["parts"].items()))


def deadlines(names: Sequence[str], begin: float, end: float) -> dict[str, float]:
    """When each of these parts has to end: the time is cut by their shares, in their order."""
    whole, until = sum(PARTS[name].share for name in names), {}
    for name in names:
        begin = until[name] = begin + (end - begin) * PARTS[name].share / whole
        whole -= PARTS[name].share
    return until


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
        result.update(ended=f"killed after {time.time() - began:.0f} s, which was too long", broken=True)
    elif code:
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        result.update(ended=f"crashed, {how}: {why}", broken=True)


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


def failed(name: str, result: dict[str, Any]) -> bool:
    """Whether a part crashed or was killed, or something in it failed or is wrong.

    That there was no time is a failure of a part that checks something, and of no other.
    """
    lines = result["lines"]
    wrong = any("failed" in line or line.get("right") is False for line in lines)
    checked = any(line.get("right") for line in lines) and not any("left_out" in line for line in lines)
    return result["broken"] or wrong or (name in CHECKS and not checked)


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
            lines += [UNLIKE, ""] if any(name.endswith("by_ours") for name in names) else []
        if result["ended"]:
            lines += [result["ended"], ""]
    return "\n".join([*lines, *results.notes(found)]) + "\n"


def run_to_the_end() -> None:
    """As a command, whose worker ends where it is ended."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main())


if __name__ == "__main__":
    run_to_the_end()
