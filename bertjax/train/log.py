"""What a run says: metrics as JSON lines in a file, one live line on the console; of several processes one."""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from operator import itemgetter
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from bertjax.contracts import Metrics
from bertjax.errors import StorageError
from bertjax.parsing import parse
from bertjax.paths import Growing
from bertjax.train.spent import PARTS, Spent, shares


def _console(*, stderr: bool) -> Console:
    made = Console(stderr=stderr, highlight=False, markup=False, emoji=False)  # paths are shown as they are
    if not made.is_terminal:  # a file has no width; 80 columns would break lines that people grep
        made.width = 120
        made.soft_wrap = True
    return made


console = _console(stderr=True)  # what goes on
answers = _console(stderr=False)  # what was asked for: tables and lists


TEMPORARIES = "gradients, activations and other temporaries"


def memory_table(title: str, sizes: Mapping[str, int]) -> Table:
    """What the memory of a device is taken by, from bytes in MiB."""
    table = Table("memory on each device", "MiB", title=title, title_justify="left")
    table.columns[1].justify = "right"
    for name, size in sizes.items():
        table.add_row(name, f"{size / 2**20:,.1f}")
    return table


def averages(metrics: Metrics, loss_terms: tuple[str, ...]) -> dict[str, float]:
    """total / weight of every metric, and `loss`, the sum of the loss terms. Waits for the device.

    Nothing where no metric has any weight, as in a window of skipped steps.
    """
    fetched = jax.device_get(metrics).items()
    if not any(weight for _, (_, weight) in fetched):
        return {}
    values = {name: float(total) / max(float(weight), 1e-9) for name, (total, weight) in fetched}
    return {"loss": sum(values[name] for name in loss_terms), **values}


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of RUN/metrics.jsonl; those that are none, as one cut off by a crash, are left out."""
    lines = []
    path = run / "metrics.jsonl"
    for text in path.read_bytes().split(b"\n") if path.exists() else []:
        with suppress(ValueError, KeyError, TypeError, AttributeError, OverflowError):
            line = parse(text)
            if isinstance(line, dict) and type(line.get("step")) is int and isinstance(line.get("split"), str):
                line["seconds"] = float(line["seconds"])
                if "spent" in line:
                    line["spent"] = {part: float(seconds) for part, seconds in line["spent"].items() if part in PARTS}
                lines.append(line)
    return lines


ROLLED_BACK = "rolled back"  # in the place of a split: the run went back to this step
ENDED = "ended"  # in the place of a split: a process that trained the run did so up to this step


def _spent(lines: Sequence[dict[str, Any]], kept: Sequence[dict[str, Any]]) -> dict[str, float]:
    """What the processes before this one spent, whose lines these are; the steps of those not `kept` are lost."""
    all_of_them = max((line["seconds"] for line in lines), default=0.0)
    seconds, last = max(
        ((line["seconds"], line.get("spent", {})) for line in kept), default=(0.0, {}), key=itemgetter(0)
    )
    apart = {part: taken for part, taken in last.items() if part != "steps"}
    lost = apart.get("lost", 0.0) + all_of_them - seconds
    return {**apart, "steps": seconds - sum(apart.values()), "lost": lost}


class Writer:
    """Appends to RUN/metrics.jsonl and keeps the console line up to date."""

    def __init__(self, run: Path, *, total_steps: int, start_step: int, title: str, since: float | None = None) -> None:
        """Lines written after step `start_step` by a run that was cut off are dropped: they come again.

        So does that of step 0 where a run begins. `since` is when this process took the run up; None is now.
        """
        self._first = jax.process_index() == 0
        lines = read_metrics(run)
        comes_again = [(start_step, ROLLED_BACK), (0, "dev") if start_step == 0 else ()]
        kept = [
            line for line in lines if line["step"] <= start_step and (line["step"], line["split"]) not in comes_again
        ]
        self.spent = Spent(_spent(lines, kept), since)
        self.reached = self._start = start_step  # the last step that was trained
        if self._first:
            self._file = Growing(run / "metrics.jsonl", [json.dumps(line) for line in kept])
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
        self._total_steps = total_steps
        self._first_line: tuple[float, int] | None = None  # when the first line of training was written, and its step
        self._progress.start()

    def write(self, step: int, figures: dict[str, float], *, split: str = "train") -> None:
        """One line in the file; training lines go to the live line, evaluation lines stay on the screen."""
        if not self._first:
            return
        self._append({"step": step, "split": split, **figures})
        text = describe(figures)
        if split == "train":
            self._progress.update(self._task, completed=step, figures=text)
            if not console.is_terminal:
                console.print(f"step {step}/{self._total_steps}  {text}{self._eta(step)}")
        else:
            console.print(f"step {step} {split}: {text}")

    def _eta(self, step: int) -> str:
        """When all steps will be done, by the time since the first line: before it lies what comes once (compiling)."""
        now = time.perf_counter()
        since, at = self._first_line = self._first_line or (now, step)
        return f"  eta {(now - since) / (step - at) * (self._total_steps - step):.0f} s" if step > at else ""

    def note(self, step: int, what: str, about: dict[str, Any], text: str) -> None:
        """A line about something that happened, its `what` in the place of a split; `text` stays on the screen."""
        if self._first:
            self._append({"step": step, "split": what, **about})
            console.print(f"step {step} {what}: {text}")

    def _append(self, line: dict[str, Any]) -> None:
        before = self._file.refused
        self._file.add(json.dumps({**line, "seconds": round(self.spent.seconds(), 3), "spent": self.spent.by_part()}))
        if self._file.refused and not before:
            console.print(f"{self._file.refused}; its lines are kept, and written when it takes them")

    def flush(self) -> None:
        """All lines are in the file when this returns: before the checkpoint that they belong to. Raises StorageError.

        They are kept where they cannot be written.
        """
        if self._first:
            self._file.flush()

    def close(self) -> None:
        """Leaves the console as it was; tells, if a step was trained, where the time went."""
        self._progress.stop()
        if self.reached > self._start:
            parts = shares(self.spent.by_part()).items()
            told = ", ".join(f"{share} {PARTS[part]}" for part, share in parts if share != "0%")
            self.note(self.reached, ENDED, {}, f"{self.spent.seconds():,.0f} s in all: {told}")
        try:
            self.flush()
        except StorageError:  # a save has failed for the same reason, or something else has ended the run
            console.print("the last lines of metrics.jsonl could not be written; those of whole checkpoints are there")


SHORT = {
    "mlm_accuracy": "masked acc",
    "nsp_accuracy": "nsp acc",
    "sop_accuracy": "sop acc",
    "grad_norm": "grad",
    "tokens_per_second": "tok/s",
    "gflops_per_second": "GFLOP/s",
    "data_wait": "waits for data",
}
FORMS = {"lr": "{:.2e}", "mfu": "{:.1%}", "data_wait": "{:.0%}"}
HIDDEN = ("mlm_loss", "nsp_loss", "sop_loss", "task_loss")  # in the file; the screen shows their sum
MUCH = 0.05  # of the time, from which it is shown that devices wait for data


def describe(figures: dict[str, float]) -> str:
    """Figures as one short line."""
    parts = []
    for name, value in figures.items():
        if name not in HIDDEN and not (name == "data_wait" and value < MUCH):
            text = f"{value:,.0f}" if name.endswith("_per_second") else FORMS.get(name, "{:.3f}").format(value)
            parts.append(f"{SHORT.get(name, name)} {text}")
    return "  ".join(parts)
