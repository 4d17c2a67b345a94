"""What bench/gpu.py runs of bertjax: training steps of given sizes; a JSON object a line."""

import math
import os
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from gpu_shared import Size, asked, each, rates, say, timed

from bertjax.compiled import REPEATABLE
from bertjax.contracts import Batch, Compute, Objective
from bertjax.models import bert
from bertjax.nn import attend
from bertjax.objectives import mlm
from bertjax.train.mesh import MeshConfig, abstract_batch, make_mesh, put, put_batch
from bertjax.train.optim import Optimizer
from bertjax.train.padding import held
from bertjax.train.state import TrainState, init_state, planned_state
from bertjax.train.step import WATCHED, make_train_step

BELOW = 5  # ids below are special: 0 padding, 1 unknown, 4 mask
TOGETHER = 4  # programs that are compiled at once, each by several threads
NEEDED = 20  # seconds to measure a size
CONFIG, OPTIMIZER = mlm.Config(examples="segments"), Optimizer(kind="adamw").build(1_000)
TOLD = os.environ.get("XLA_FLAGS", "")

Step = Any  # a jax.stages.Compiled: (state, batch, None) -> (state, metrics); the old state is given up
Compiled = tuple[Step, float]  # and how many seconds it took


def speed(until: float, sizes: list[Size], toy: bool) -> None:
    """Sizes are compiled together, ahead of time, and then measured one by one, with the machine to themselves."""
    say(device=jax.devices()[0].device_kind, jax=jax.__version__, flax=flax.__version__)
    needed = 0 if toy else NEEDED
    for group in (sizes[i : i + TOGETHER] for i in range(0, len(sizes), TOGETHER)):
        begun = time.time() + 3 * needed < until
        ahead = compiling(group, toy) if begun else {}
        wait(ahead.values(), timeout=max(0, until - needed - time.time()))
        each(group, until if begun else 0, needed, partial(measure, ahead=ahead, until=until, toy=toy), too_large)


def compiling(sizes: Iterable[Size], toy: bool) -> dict[Size, Future[Compiled]]:
    """The steps of some sizes, which are being compiled; the state that the first begins with is drawn meanwhile."""
    pool, found = ThreadPoolExecutor(TOGETHER), dict[Size, Future[Compiled]]()
    for size in sizes:
        try:
            found[size] = pool.submit(_compiled, lowered(size, toy))
        except Exception as error:  # one that cannot even be traced is told when its turn comes
            found[size] = Future()
            found[size].set_exception(error)
    with suppress(Exception):  # it comes again where the state is asked for
        _begin(next(iter(found)).model, toy)
    pool.shutdown(wait=False)
    return found


def _compiled(program: Any) -> Compiled:  # noqa: ANN401 (a jax.stages.Lowered)
    began = time.perf_counter()
    return program.compile(), time.perf_counter() - began


def too_large(error: Exception) -> bool:
    """Whether the memory of the device did not do."""
    return "RESOURCE_EXHAUSTED" in str(error)


def lowered(size: Size, toy: bool) -> Any:  # noqa: ANN401 (a jax.stages.Lowered)
    """The step of a size, to be compiled."""
    model, mesh = _model(size.model, toy), make_mesh(MeshConfig(data=1))
    objective = CONFIG.build(model).using(_compute(size))
    os.environ["XLA_FLAGS"] = TOLD if size.repeatable else f"{TOLD} --{REPEATABLE}=false"  # which a step asks anew
    step = make_train_step(objective, OPTIMIZER, mesh)
    return step.lower(planned_state(objective, OPTIMIZER, mesh), abstract_batch(_rows(size, toy), size.rows, mesh))


def measure(size: Size, ahead: dict[Size, Future[Compiled]], until: float, toy: bool) -> dict[str, Any]:
    """Tokens a second of training, all of them real, and whether three steps give the same bits twice."""
    if size in ahead:
        step, compiled = ahead.pop(size).result(timeout=max(0, until - time.time()))
    else:
        step, compiled = _compiled(lowered(size, toy))
    model, batch = _model(size.model, toy), put_batch(_rows(size, toy), make_mesh(MeshConfig(data=1)))
    first = jax.device_get(_after(3, step, _fresh(size.model, toy), batch)[0].params)
    state, watched = _after(3, step, _fresh(size.model, toy), batch)
    same = bool(jax.tree.all(jax.tree.map(np.array_equal, first, jax.device_get(state.params))))

    def steps(count: int) -> None:
        nonlocal state
        state, _ = _after(count, step, state, batch)

    seconds, spread = timed(steps, toy=toy)
    found = rates(size, seconds, spread, CONFIG.flops_per_token(model, size.length), jax.devices()[0].device_kind)
    dtype, width = jnp.dtype(model.dtype), model.width // model.heads
    way = attend.choose(_compute(size), length=size.length, head_width=width, dtype=dtype, dropped=False)
    how = {"attention": way, "repeatable": size.repeatable}
    return how | judged(size.repeatable, same, *watched) | found | {"compile_seconds": round(compiled, 1)}


def judged(repeatable: bool, same: bool, loss: float, norm: float) -> dict[str, Any]:
    """Whether steps are as they have to be: finite, and the same twice where they are compiled to be."""
    fine = math.isfinite(loss) and math.isfinite(norm) and (same or not repeatable)
    return {"loss": round(loss, 3), "same_twice": same, "right": fine}


def _after(count: int, step: Step, state: TrainState, batch: Batch) -> tuple[TrainState, tuple[float, float]]:
    """The state after so many steps, with the loss and the norm of the gradient of the last."""
    for _ in range(count):
        state, metrics = step(state, batch, None)
    loss, norm = jax.device_get(metrics[WATCHED])
    return jax.block_until_ready(state), (float(loss), float(norm))


def _model(preset: str, toy: bool) -> bert.Config:
    return replace(bert.PRESETS[preset], dtype="bfloat16", attention_dropout=0.0, vocab_size=512 if toy else 30_522)


def _compute(size: Size) -> Compute:
    return Compute(attention=size.attention, mesh=make_mesh(MeshConfig(data=1)))  # type: ignore[arg-type]


def _rows(size: Size, toy: bool) -> dict[str, np.ndarray]:
    slots = CONFIG.masking.slots(size.length)
    return synthetic(_model(size.model, toy), size.rows, size.length, size.sequences, slots)


@lru_cache(maxsize=1)
def _begin(preset: str, toy: bool) -> TrainState:
    """On the host: large takes 8 CPU-s to draw, and both its lengths begin with the same."""
    objective: Objective = CONFIG.build(_model(preset, toy))
    return jax.device_get(init_state(objective, OPTIMIZER, seed=0, mesh=make_mesh(MeshConfig(data=1))))


def _fresh(preset: str, toy: bool) -> TrainState:
    begin = _begin(preset, toy)
    like = held(begin, make_mesh(MeshConfig(data=1)))
    return jax.tree.map(lambda value, to: put(value, to.sharding), begin, like)


def synthetic(model: bert.Config, rows: int, length: int, sequences: int, slots: int) -> dict[str, np.ndarray]:
    """A batch of random tokens, all real, in `sequences` of one length a row."""
    rng = np.random.default_rng(0)
    each = length // sequences
    return {
        "tokens": rng.integers(BELOW, model.vocab_size, (rows, length), dtype=np.int32),
        "types": np.zeros((rows, length), np.int32),
        "sequence": np.tile(1 + np.arange(length, dtype=np.int32) // each, (rows, 1)),
        "positions": np.tile(np.arange(length, dtype=np.int32) % each, (rows, 1)),
        "first_tokens": np.tile(np.arange(sequences, dtype=np.int32) * each, (rows, 1)),
        "masked_positions": rng.integers(0, length, (rows, slots), dtype=np.int32),
        "masked_targets": rng.integers(BELOW, model.vocab_size, (rows, slots), dtype=np.int32),
        "masked_weights": np.ones((rows, slots), np.float32),
    }


if __name__ == "__main__":
    options = asked()
    speed(options.until, options.sizes, options.toy)
