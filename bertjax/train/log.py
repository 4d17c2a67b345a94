"""What a run says: metrics as JSON lines in a file, one live line on the console; of several processes one."""

import json
import os
import time
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bertjax.contracts import Metrics
from bertjax.storage import writing


def _console(*, stderr: bool) -> Console:
    made = Console(stderr=stderr, highlight=False, markup=False, emoji=False)  # paths are shown as they are
    if not made.is_terminal:  # a file has no width; 80 columns would break lines that people grep
        made.width = 120
        made.soft_wrap = True
    return made


console = _console(stderr=True)  # what goes on
answers = _console(stderr=False)  # what was asked for: tables and lists


def averages(metrics: Metrics, loss_terms: tuple[str, ...]) -> dict[str, float]:
    """total / weight of every metric, and `loss`, the sum of the loss terms. Waits for the device."""
    values = {
        name: float(total) / max(float(weight), 1e-9) for name, (total, weight) in jax.device_get(metrics).items()
    }
    return {"loss": sum(values[name] for name in loss_terms), **values}


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of RUN/metrics.jsonl; a line cut off by a crash ends the list."""
    lines = []
    path = run / "metrics.jsonl"
    for line in path.read_bytes().split(b"\n") if path.exists() else []:
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines


class Writer:
    """Appends to RUN/metrics.jsonl and keeps the console line up to date."""

    def __init__(self, run: Path, *, total_steps: int, start_step: int, title: str) -> None:
        """Lines written after step `start_step` by a run that was cut off are dropped: they come again."""
        self._path = run / "metrics.jsonl"
        self._first = jax.process_index() == 0
        kept = [line for line in read_metrics(run) if line["step"] <= start_step]
        if self._first:
            temporary = self._path.with_suffix(".tmp")
            with writing(self._path):
                temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
                os.replace(temporary, self._path)
        self._seconds_before = max((line["seconds"] for line in kept), default=0.0)
        self._began = time.perf_counter()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[figures]}"),
            console=console,
            disable=not (console.is_terminal and self._first),
        )
        self._task = self._progress.add_task(title, total=total_steps, completed=start_step, figures="compiling")
        self._total_steps, self._start_step = total_steps, start_step
        self._progress.start()

    def write(self, step: int, figures: dict[str, float], *, split: str = "train") -> None:
        """One line in the file; training lines go to the live line, evaluation lines stay on the screen."""
        seconds = time.perf_counter() - self._began
        if not self._first:
            return
        line = {"step": step, "split": split, **figures, "seconds": round(self._seconds_before + seconds, 3)}
        with writing(self._path), self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        text = describe(figures)
        if split == "train":
            self._progress.update(self._task, completed=step, figures=text)
            if not console.is_terminal:
                done = max(1, step - self._start_step)
                eta = seconds / done * (self._total_steps - step)
                console.print(f"step {step}/{self._total_steps}  {text}  eta {eta:.0f} s")
        else:
            console.print(f"step {step} {split}: {text}")

    def close(self) -> None:
        """Leaves the console as it was."""
        self._progress.stop()


SHORT = {
    "mlm_accuracy": "masked acc",
    "nsp_accuracy": "nsp acc",
    "sop_accuracy": "sop acc",
    "grad_norm": "grad",
    "tokens_per_second": "tok/s",
    "gflops_per_second": "GFLOP/s",
}
FORMS = {"lr": "{:.2e}", "mfu": "{:.1%}"}
HIDDEN = ("mlm_loss", "nsp_loss", "sop_loss", "task_loss")  # in the file; the screen shows their sum


def describe(figures: dict[str, float]) -> str:
    """Figures as one short line."""
    parts = []
    for name, value in figures.items():
        if name not in HIDDEN:
            text = f"{value:,.0f}" if name.endswith("_per_second") else FORMS.get(name, "{:.3f}").format(value)
            parts.append(f"{SHORT.get(name, name)} {text}")
    return "  ".join(parts)
