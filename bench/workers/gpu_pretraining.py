"""What bench/gpu.py runs of bertjax: a model learns the words of two novels; a JSON object a line, the last of all."""

import gzip
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from gpu_shared import NO_TIME, asked, say
from gpu_speed import BELOW, synthetic

from bertjax.contracts import Compute
from bertjax.models import bert
from bertjax.objectives import mlm
from bertjax.train.mesh import MeshConfig, make_mesh, put_batch
from bertjax.train.optim import Optimizer
from bertjax.train.state import init_state
from bertjax.train.step import make_eval_step, make_train_step

NOVELS = Path(__file__).parents[2] / "sample_data" / "novels.txt.gz"
MOST = 150  # seconds of training
BLOCK = 5  # seconds between two lines
PATIENCE = 5  # lines in which the held-out loss was not lower, after which training ends
LESS = 0.5  # that the best held-out loss has to be below the first: 10 steps give about ln(16,384) = 9.7


def pretraining(until: float, toy: bool) -> None:
    """A model on the novels until the time is over; its loss, and that on held-out text, as it goes."""
    size, rows, length = (512, 8, 32) if toy else (16_384, 256, 128)
    config, mesh = mlm.Config(examples="segments"), make_mesh(MeshConfig(data=1))
    model = replace(bert.PRESETS["tiny" if toy else "base"], vocab_size=size, attention_dropout=0.0)
    model, slots = replace(model, dtype="float32" if toy else "bfloat16"), config.masking.slots(length)
    objective = config.build(model).using(Compute(mesh=mesh))
    optimizer = Optimizer(kind="adamw", peak_lr=1e-3 if toy else 2e-4, warmup=20 if toy else 500).build(100_000)
    state = init_state(objective, optimizer, seed=0, mesh=mesh)
    batches, held_out = (rows_of(ids, rows, length, slots, size, seed) for seed, ids in enumerate(words(size)))
    valid = [put_batch(next(held_out), mesh) for _ in range(2)]
    programs = (
        make_train_step(objective, optimizer, mesh).lower(state, valid[0]),
        make_eval_step(objective).lower(state.params, valid[0]),
    )
    with ThreadPoolExecutor() as pool:
        step, evaluate = pool.map(lambda program: program.compile(), programs)

    def train(count: int) -> dict[str, float]:
        nonlocal state
        for _ in range(count):
            state, metrics = step(state, put_batch(next(batches), mesh), None)
        total, weight = jax.device_get(metrics["mlm_loss"])
        seen = jax.device_get([evaluate(state.params, batch)["mlm_loss"] for batch in valid])
        return {"loss": float(total / weight), "held_out": float(sum(t for t, _ in seen) / sum(w for _, w in seen))}

    why, seen = learn(train, min(until, time.time() + MOST), 0.5 if toy else BLOCK, 60 if toy else math.inf)
    say(**summary(seen), ended=why)


class Seen(NamedTuple):
    """The losses after so many steps."""

    step: int
    loss: float
    held_out: float


def learn(
    train: Callable[[int], dict[str, float]], until: float, block: float, enough: float
) -> tuple[str, list[Seen]]:
    """Says what `train`, which takes so many steps, gives every `block` seconds; why it ended, and what was seen.

    It ends where another block would not fit, where the held-out loss has not been lower for PATIENCE blocks, and after
    `enough` steps. How many steps a block has follows from how long one took in the block before.
    """
    began, done, count, seen = time.time(), 0, 10, list[Seen]()
    while done < enough:
        before = time.time()
        losses = train(count)
        done += count
        seen.append(Seen(done, **losses))
        say(step=done, seconds=round(time.time() - began, 1), **{name: round(x, 4) for name, x in losses.items()})
        if len(seen) - 1 - seen.index(best(seen)) >= PATIENCE:
            return f"held-out loss not lower for {PATIENCE} lines", seen
        one = max(time.time() - before, 1e-6) / count
        count = max(1, round(block / one))
        if time.time() + 1.1 * count * one > until:
            return "its time was over", seen
    return f"{done} steps were enough", seen


def best(seen: list[Seen]) -> Seen:
    """The lowest held-out loss, the first where there are several; one that is no number is not low."""
    return min(seen, key=lambda each: each.held_out if math.isfinite(each.held_out) else math.inf)


def summary(seen: list[Seen]) -> dict[str, Any]:
    """The last losses and the best held-out one, and whether all are finite and that is LESS than the first."""
    if len(seen) < 2:
        return {"left_out": NO_TIME}
    lowest = best(seen)
    finite = all(math.isfinite(each.loss) and math.isfinite(each.held_out) for each in seen)
    return {
        "step": seen[-1].step,
        "best_step": lowest.step,
        "best_held_out": round(lowest.held_out, 4),
        "right": finite and lowest.held_out < seen[0].held_out - LESS,
    }


def words(size: int) -> tuple[np.ndarray, np.ndarray]:
    """The novels as ids of their most frequent words, and their last twentieth, held out."""
    text = gzip.decompress(NOVELS.read_bytes()).decode().lower()
    found = re.findall(r"\w+|[^\w\s]", text)
    rows = {word: BELOW + i for i, (word, _) in enumerate(Counter(found).most_common(size - BELOW))}
    ids = np.array([rows.get(word, 1) for word in found], np.int32)
    return ids[: -len(ids) // 20], ids[-len(ids) // 20 :]


def rows_of(
    ids: np.ndarray, rows: int, length: int, slots: int, size: int, seed: int
) -> Iterator[dict[str, np.ndarray]]:
    """Batches cut anywhere from a text, 15% of the tokens to be predicted: BERT's masking."""
    rng = np.random.default_rng(seed)
    plain = synthetic(bert.Config(vocab_size=size), rows, length, 1, slots)
    while True:
        starts = rng.integers(0, len(ids) - length, (rows, 1))
        tokens = ids[starts + np.arange(length)]
        positions = np.sort(rng.permuted(np.tile(np.arange(length), (rows, 1)), axis=1)[:, :slots], axis=1)
        targets = np.take_along_axis(tokens, positions, axis=1)
        draw = rng.random(targets.shape)
        shown = np.where(draw < 0.8, 4, np.where(draw < 0.9, rng.integers(BELOW, size, targets.shape), targets))
        np.put_along_axis(tokens, positions, shown.astype(np.int32), axis=1)
        yield plain | {"tokens": tokens, "masked_positions": positions.astype(np.int32), "masked_targets": targets}


if __name__ == "__main__":
    options = asked()
    pretraining(options.until, options.toy)
