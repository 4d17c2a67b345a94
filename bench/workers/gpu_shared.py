"""What the workers of bench/gpu.py share: how they are asked, how they answer, how they go through sizes."""

import argparse
import gc
import json
import math
import statistics
import time
import traceback
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from bertjax.chips import chip_of

NO_TIME = "no time was left"
WINDOWS, WINDOW = 5, 0.5  # a rate is the median of so many stretches of so many seconds


class Size(NamedTuple):
    """A batch of `rows` rows of `length` tokens in `sequences` packed ones, and how a step is made of it."""

    model: str  # tiny, base or large
    rows: int
    length: int
    sequences: int = 1
    attention: str = "auto"  # of bertjax
    repeatable: bool = True  # of bertjax
    whole: bool = False  # of torch: compiled in one, not layer by layer

    @property
    def named(self) -> dict[str, Any]:
        """As tables show it: what is as it is by default is left out."""
        batch = f"{self.rows} x {self.length}" + (f", {self.sequences} packed" if self.sequences > 1 else "")
        how = {name: getattr(self, name) for name in ("attention", "repeatable", "whole")}
        others = {name: value for name, value in how.items() if value != self._field_defaults[name]}
        return {"model": self.model, "batch": batch} | others


def asked() -> argparse.Namespace:
    """What bench/gpu.py tells a worker: `until` when, as time.time() counts, for which `sizes`, and whether `toy`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--until", type=float, required=True)
    parser.add_argument("--sizes", type=lambda text: [Size(**size) for size in json.loads(text)], default=[])
    parser.add_argument("--toy", action="store_true")
    return parser.parse_args()


def say(**line: object) -> None:
    """One line of JSON; a number that is none, for which JSON has no word, is told as a text."""
    odd = {name: str(x) for name, x in line.items() if isinstance(x, float) and not math.isfinite(x)}
    print(json.dumps(line | odd), flush=True)


def told(error: Exception) -> str:
    """An exception's name and its first line; all of it goes to stderr."""
    traceback.print_exception(error)
    first = next((line for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first.strip()}"[:400]


def each(
    sizes: Iterable[Size],
    until: float,
    needed: float,
    measure: Callable[[Size], dict[str, Any]],
    too_large: Callable[[Exception], bool],
) -> None:
    """Says what `measure` finds of each size, by itself: one that fails is told, one that is too large is halved.

    None is begun later than `needed` seconds before `until`.
    """
    for size in sizes:
        while not _said(size, until - needed, measure, too_large):
            gc.collect()  # the exception, gone by now, held on to arrays
            size = size._replace(rows=size.rows // 2)


def _said(
    size: Size, latest: float, measure: Callable[[Size], dict[str, Any]], too_large: Callable[[Exception], bool]
) -> bool:
    """Whether there is nothing more to say of a size; False where half the rows are to be tried."""
    if time.time() > latest:
        say(**size.named, left_out=NO_TIME)
        return True
    try:
        say(**(size.named | measure(size)))
    except TimeoutError:  # what it waited for takes longer than there is time
        say(**size.named, left_out=NO_TIME)
    except Exception as error:
        if too_large(error) and size.rows > 1:
            return False
        say(**size.named, failed=told(error))
    return True


def timed(steps: Callable[[int], object], *, toy: bool) -> tuple[float, float]:
    """Seconds a step: the median of some windows, and how far apart these are, as a share of it.

    `steps` takes so many and waits until the device has done them. Three, which warm up, say how many fill a window.
    """
    began = time.perf_counter()
    steps(3)
    count = max(1, round(3 * (WINDOW / 20 if toy else WINDOW) / (time.perf_counter() - began)))
    windows = []
    for _ in range(WINDOWS):
        began = time.perf_counter()
        steps(count)
        windows.append((time.perf_counter() - began) / count)
    middle = statistics.median(windows)
    return middle, (max(windows) - min(windows)) / middle


def rates(
    size: Size, seconds: float, spread: float, flops: float, device: str, *, ours: float | None = None
) -> dict[str, Any]:
    """What tables say of a step that takes `seconds`, does `flops` a token, and runs on a device that is called so.

    `ours` are the FLOPs of bertjax for a token, where they are others.
    """
    rate, chip = size.rows * size.length / seconds, chip_of(device)

    def share(flops: float) -> float:
        return round(rate * flops / chip.flops, 3) if chip else float(f"{rate * flops / 1e12:.3g}")

    work = {"mfu" if chip else "tflops_per_second": share(flops)}
    work |= {} if ours is None else {"mfu_by_ours" if chip else "tflops_by_ours": share(ours)}
    return {"tokens_per_second": round(rate), **work, "spread": f"{spread:.1%}"}


def flops_per_token(layers: int, width: int, vocab: int, length: int, masked: float, read: float = 1.0) -> float:
    """As in bertjax.models.bert, without the pooler.

    A share `masked` of the tokens goes through the head, and `read` through the last layer, but for keys and values.
    """
    layer, keys_and_values = 24 * width**2 + 4 * length * width, 4 * width**2
    last = keys_and_values + read * (layer - keys_and_values)
    return 3.0 * ((layers - 1) * layer + last + masked * 2 * (width**2 + width * vocab))


def slots(length: int) -> int:
    """Masked positions of a row, as bertjax has them."""
    return math.ceil(0.15 * length)
