"""What bench/gpu.py runs of bertjax: `ways`, `speed` or `pretraining`; a JSON object a line."""

import argparse
import gzip
import json
import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

from bertjax.chips import chip_of
from bertjax.compiled import REPEATABLE
from bertjax.contracts import Batch, Compute
from bertjax.errors import ConfigError
from bertjax.models import bert
from bertjax.nn import attend
from bertjax.objectives import mlm
from bertjax.train.mesh import MeshConfig, make_mesh, put_batch
from bertjax.train.optim import Optimizer
from bertjax.train.state import TrainState, init_state
from bertjax.train.step import TrainStep, make_eval_step, make_train_step

NOVELS = Path(__file__).parents[2] / "sample_data" / "novels.txt.gz"
BELOW = 5  # ids below are special: 0 padding, 1 unknown, 4 mask


def say(**line: object) -> None:
    """One line of JSON."""
    print(json.dumps(line), flush=True)


def ways(seconds: float, toy: bool) -> None:
    """Every way to attend against einsum in float32."""
    mesh = make_mesh(MeshConfig(data=1))
    for length in (128,) if toy else (128, 512):
        rng = np.random.default_rng(0)
        shape = (2 if toy else 8, length, 2 if toy else 12, 64)
        heads = [jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(3)]
        ends = np.sort(rng.integers(1, length, (shape[0], 3)), axis=1)
        place = np.arange(length)
        sequence = jnp.asarray(
            (1 + (place[None, :, None] >= ends[:, None]).sum(-1)) % 4, jnp.int32
        )  # the last is padding
        with jax.default_matmul_precision("highest"):
            right = _with_gradients("einsum", mesh, heads, jnp.asarray(sequence, jnp.int32))
        for kind in ("einsum", "cudnn", "splash"):
            for dtype in (jnp.bfloat16, jnp.float32):
                name = {"way": kind, "dtype": jnp.dtype(dtype).name, "length": length}
                try:
                    compute = Compute(attention=kind, mesh=mesh)  # type: ignore[arg-type]
                    attend.choose(compute, length=length, head_width=64, dtype=jnp.dtype(dtype), dropped=False)
                except ConfigError as error:
                    say(**name, not_here=str(error))
                    continue
                got = _with_gradients(kind, mesh, [x.astype(dtype) for x in heads], jnp.asarray(sequence, jnp.int32))
                errors = [float(jnp.abs(g - r).max() / jnp.abs(r).max()) for g, r in zip(got, right, strict=True)]
                most = 0.02 if dtype == jnp.bfloat16 else 5e-3  # of float32 products a GPU may make TF32
                fine = all(np.isfinite(errors)) and max(errors) < most
                say(
                    **name,
                    right=fine,
                    **{n: f"{e:.1e}" for n, e in zip(("output", "dq", "dk", "dv"), errors, strict=True)},
                )


def _with_gradients(kind: str, mesh: Any, heads: list[jax.Array], sequence: jax.Array) -> list[jax.Array]:  # noqa: ANN401
    """The output of the real tokens and the gradients of a weighted sum over them, in float32."""
    real = (sequence > 0)[:, :, None, None]
    weights = jnp.asarray(np.random.default_rng(1).normal(size=heads[0].shape), jnp.float32)
    how: dict[str, Any] = {} if kind == "einsum" else {"mesh": mesh}

    def total(*heads: jax.Array) -> tuple[jax.Array, jax.Array]:
        out = jnp.where(real, getattr(attend, kind)(*heads, sequence, **how).astype(jnp.float32), 0.0)
        return jnp.sum(out * weights), out

    gradients, out = jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))(*heads)
    return [x.astype(jnp.float32) for x in (out, *gradients)]


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


def speed(seconds: float, toy: bool) -> None:
    """Steps of base and large at 128 and packed 512."""
    end = time.monotonic() + seconds
    device = jax.devices()[0]
    say(device=device.device_kind, jax=jax.__version__, flax=flax.__version__)
    sizes = [("tiny", 4, 128, 1)] if toy else [("base", 256, 128, 1), ("base", 64, 512, 4), ("large", 128, 128, 1), ("large", 32, 512, 4)]  # fmt: skip  # noqa: E501
    kinds = [("auto", True, sizes), ("auto", False, sizes[:2]), ("einsum", True, sizes)]
    for attention, repeatable, shapes in kinds:
        for preset, rows, length, sequences in shapes:
            if time.monotonic() > end - (0 if toy else 40):
                say(model=preset, length=length, attention=attention, repeatable=repeatable, error="no time was left")
                continue
            while rows:
                try:
                    _speed(preset, rows, length, sequences, attention, repeatable, toy)
                    break
                except jax.errors.JaxRuntimeError as error:
                    if "RESOURCE_EXHAUSTED" not in str(error):
                        raise
                    rows //= 2


def _speed(preset: str, rows: int, length: int, sequences: int, attention: str, repeatable: bool, toy: bool) -> None:
    config = mlm.Config(examples="segments")
    model = replace(bert.PRESETS[preset], dtype="bfloat16", attention_dropout=0.0, vocab_size=512 if toy else 30_522)
    slots, mesh = config.masking.slots(length), make_mesh(MeshConfig(data=1))
    compute = Compute(attention=attention, mesh=mesh)  # type: ignore[arg-type]
    objective, optimizer = config.build(model).using(compute), Optimizer(kind="adamw").build(1_000)
    batch = put_batch(synthetic(model, rows, length, sequences, slots), mesh)
    os.environ["XLA_FLAGS"] = "" if repeatable else f"--{REPEATABLE}=false"  # XLA has read its flags; a step asks anew
    step, begin = make_train_step(objective, optimizer, mesh), init_state(objective, optimizer, seed=0, mesh=mesh)
    began = time.perf_counter()
    _after(1, step, jax.tree.map(jnp.copy, begin), batch)
    compiled = time.perf_counter() - began
    first, state = (_after(3, step, state, batch) for state in (jax.tree.map(jnp.copy, begin), begin))
    same = jax.tree.all(jax.tree.map(jnp.array_equal, first.params, state.params))
    del first
    count, took = 2, 0.0
    while took < (0.1 if toy else 5):
        count *= 2
        began = time.perf_counter()
        state = _after(count, step, state, batch)
        took = time.perf_counter() - began
    rate = rows * length * count / took
    chip = chip_of(jax.devices()[0].device_kind)
    flops = rate * config.flops_per_token(model, length)
    work = {"mfu": round(flops / chip.flops, 3)} if chip else {"tflops_per_second": float(f"{flops / 1e12:.3g}")}
    way = attend.choose(
        compute, length=length, head_width=model.width // model.heads, dtype=jnp.dtype(jnp.bfloat16), dropped=False
    )
    shape = f"{rows} x {length}" + (f", {sequences} packed" if sequences > 1 else "")
    say(
        model=preset,
        batch=shape,
        attention=way,
        repeatable=repeatable,
        same_twice=bool(same),
        tokens_per_second=round(rate),
        **work,
        compile_seconds=round(compiled, 1),
    )


def _after(count: int, step: TrainStep, state: TrainState, batch: Batch) -> TrainState:
    for _ in range(count):
        state, _ = step(state, batch)
    return jax.block_until_ready(state)


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


def pretraining(seconds: float, toy: bool) -> None:
    """A model on the novels until the time is over; its loss, and that on held-out text, as it goes."""
    end = time.monotonic() + min(seconds, 300)
    size, rows, length = (512, 8, 32) if toy else (16_384, 256, 128)
    config, mesh = mlm.Config(examples="segments"), make_mesh(MeshConfig(data=1))
    model = replace(bert.PRESETS["tiny" if toy else "base"], vocab_size=size, attention_dropout=0.0)
    model, slots = replace(model, dtype="float32" if toy else "bfloat16"), config.masking.slots(length)
    objective = config.build(model).using(Compute(mesh=mesh))
    optimizer = Optimizer(kind="adamw", peak_lr=1e-3 if toy else 2e-4, warmup=20 if toy else 500).build(100_000)
    step, state = make_train_step(objective, optimizer, mesh), init_state(objective, optimizer, seed=0, mesh=mesh)
    text, held_out = words(size)
    valid = [put_batch(next(rows_of(held_out, rows, length, slots, size, seed)), mesh) for seed in range(2)]
    evaluate, batches = make_eval_step(objective), rows_of(text, rows, length, slots, size, seed=9)
    began, done, every = time.monotonic(), 0, 20 if toy else 50
    while True:
        for _ in range(every):
            state, metrics = step(state, put_batch(next(batches), mesh))
        done += every
        total, weight = jax.device_get(metrics["mlm_loss"])
        seen = jax.device_get([evaluate(state.params, batch)["mlm_loss"] for batch in valid])
        say(
            step=done,
            seconds=round(time.monotonic() - began, 1),
            loss=round(float(total / weight), 4),
            held_out=round(float(sum(t for t, _ in seen) / sum(w for _, w in seen)), 4),
        )
        if time.monotonic() > end or (toy and done >= 60):
            break
        every = min(2 * every, 20 if toy else 400)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=("ways", "speed", "pretraining"))
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--toy", action="store_true")
    options = parser.parse_args()
    {"ways": ways, "speed": speed, "pretraining": pretraining}[options.part](options.seconds, options.toy)
