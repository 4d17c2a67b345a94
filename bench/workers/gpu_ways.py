"""What bench/gpu.py runs of bertjax: every way to attend against einsum in float32; a JSON object a line."""

import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gpu_shared import NO_TIME, asked, say, told
from jax.sharding import Mesh

from bertjax.compiled import step_options
from bertjax.contracts import Compute, Window
from bertjax.errors import ConfigError
from bertjax.nn import attend
from bertjax.nn.places import of_queries
from bertjax.train.mesh import MeshConfig, make_mesh

KINDS = ("einsum", "cudnn", "splash")
MOST = {"bfloat16": 0.02, "float32": 5e-3}  # errors of the largest value; of float32 products a GPU may make TF32


class Case(NamedTuple):
    """Rows of `length` tokens, of which `queries` ask, or all; a token sees those of its `window`, or all."""

    length: int
    queries: int | None = None
    window: Window = None

    @property
    def named(self) -> dict[str, Any]:
        """As tables show it."""
        queries, window = self.queries or self.length, self.window and "{} before, {} after".format(*self.window)
        return {"length": self.length, "queries": queries, "window": window or "none"}


# An odd number of queries, as cuDNN takes even ones: it is given one more.
CASES = (Case(128), Case(512), Case(512, queries=151), Case(512, window=(64, 32)))
TOY = (Case(128), Case(128, queries=37), Case(128, window=(16, 8)))


def ways(until: float, toy: bool) -> None:
    """Every way in both types, each by itself: one that fails is told."""
    mesh = make_mesh(MeshConfig(data=1))
    for case in TOY if toy else CASES:
        heads, sequence, read = packed(case, 2 if toy else 8, 2 if toy else 12)
        try:
            with jax.default_matmul_precision("highest"):
                right = with_gradients("einsum", mesh, heads, sequence, read, case.window)
        except Exception as error:
            say(way="einsum", dtype="float32, exact", **case.named, failed=told(error))
            continue
        for kind in KINDS:
            for dtype in MOST:
                name = {"way": kind, "dtype": dtype, **case.named}
                if time.time() > until:
                    say(**name, left_out=NO_TIME)
                    continue
                try:
                    say(**name, **compared(kind, mesh, [x.astype(dtype) for x in heads], sequence, read, case, right))
                except ConfigError as error:
                    say(**name, not_here=str(error))
                except Exception as error:
                    say(**name, failed=told(error))


def packed(case: Case, rows: int, heads: int) -> tuple[list[jax.Array], jax.Array, jax.Array | None]:
    """Query, key and value f32[rows,...,heads,64], sequence i32[rows,length] and places read i32[rows,queries].

    A row has three sequences, then padding.
    """
    rng = np.random.default_rng(0)
    values = [jnp.asarray(rng.normal(size=(rows, case.length, heads, 64)), jnp.float32) for _ in range(3)]
    ends = np.sort(rng.integers(1, case.length, (rows, 3)), axis=1)
    place = np.arange(case.length)
    sequence = jnp.asarray((1 + (place[None, :, None] >= ends[:, None]).sum(-1)) % 4, jnp.int32)
    if case.queries is None:
        return values, sequence, None
    read = np.sort(rng.permuted(np.tile(place, (rows, 1)), axis=1)[:, : case.queries], axis=1)
    return [values[0][:, : case.queries], *values[1:]], sequence, jnp.asarray(read, jnp.int32)


def compared(
    kind: str,
    mesh: Mesh,
    heads: list[jax.Array],
    sequence: jax.Array,
    read: jax.Array | None,
    case: Case,
    right: list[jax.Array],
) -> dict[str, Any]:
    """The errors of a way, as shares of the largest value; ConfigError where it cannot be had."""
    dtype = heads[0].dtype
    attend.choose(
        Compute(attention=kind, mesh=mesh),  # type: ignore[arg-type]
        length=case.length,
        head_width=heads[0].shape[3],
        dtype=dtype,
        dropped=False,
        queries=case.queries,
        window=case.window,
    )
    got = with_gradients(kind, mesh, heads, sequence, read, case.window)
    errors = [float(jnp.abs(g - r).max() / jnp.abs(r).max()) for g, r in zip(got, right, strict=True)]
    fine = all(np.isfinite(errors)) and max(errors) < MOST[dtype.name]
    return {"right": fine} | {n: f"{e:.1e}" for n, e in zip(("output", "dq", "dk", "dv"), errors, strict=True)}


def with_gradients(
    kind: str, mesh: Mesh, heads: list[jax.Array], sequence: jax.Array, read: jax.Array | None, window: Window
) -> list[jax.Array]:
    """The output of the real tokens and the gradients of a weighted sum over them, in float32.

    It is compiled as a training step is: of some kernels there are two, and one is repeatable.
    """
    real = (of_queries(sequence, read)[0] > 0)[:, :, None, None]
    weights = jnp.asarray(np.random.default_rng(1).normal(size=heads[0].shape), jnp.float32)
    how: dict[str, Any] = {"read": read, "window": window} | ({} if kind == "einsum" else {"mesh": mesh})

    def total(*heads: jax.Array) -> tuple[jax.Array, jax.Array]:
        out = jnp.where(real, getattr(attend, kind)(*heads, sequence, **how).astype(jnp.float32), 0.0)
        return jnp.sum(out * weights), out

    options = step_options(mesh.devices.flat[0].platform)
    gradients, out = jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True), compiler_options=options)(*heads)
    return [x.astype(jnp.float32) for x in (out, *gradients)]


if __name__ == "__main__":
    options = asked()
    ways(options.until, options.toy)
