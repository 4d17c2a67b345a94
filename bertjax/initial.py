"""How parameters begin: in a program, as those of any Flax module do, or drawn on the host.

A run draws its own on the host. They are the same on every mesh and kind of device, and there is nothing to compile:
a program that drew those of BERT-mini took 2 CPU-s to make, a sixth of the start of a run. numpy draws its 11 million
in 0.14 CPU-s.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

CUT = 2.0  # standard deviations


@runtime_checkable
class Initializer(Protocol):
    """How a parameter begins, said twice: both ways draw from one distribution, not the same numbers."""

    def __call__(self, key: jax.Array, shape: Sequence[int], dtype: DTypeLike) -> jax.Array:
        """In a program, as Flax asks for it."""
        ...

    def drawn(self, rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
        """f32[shape] on the host."""
        ...


@dataclass(frozen=True)
class Constant:
    """Every element alike."""

    value: float

    def __call__(self, key: jax.Array, shape: Sequence[int], dtype: DTypeLike) -> jax.Array:
        """An array of it; no key is needed."""
        del key
        return jnp.full(shape, self.value, dtype)

    def drawn(self, rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
        """f32[shape] of it."""
        del rng
        return np.full(shape, self.value, np.float32)


ZEROS, ONES = Constant(0.0), Constant(1.0)


@dataclass(frozen=True)
class TruncatedNormal:
    """Normal of `std` cut at two standard deviations and not rescaled, as in BERT: what comes out has 0.88 std."""

    std: float

    def __call__(self, key: jax.Array, shape: Sequence[int], dtype: DTypeLike) -> jax.Array:
        """An array of draws, by jax.random."""
        return jax.random.truncated_normal(key, -CUT, CUT, tuple(shape), dtype) * jnp.asarray(self.std, dtype)

    def drawn(self, rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
        """f32[shape]; what lies outside the cut is drawn again until nothing does."""
        values = rng.standard_normal(tuple(shape), np.float32)
        flat = values.reshape(-1)
        outside = np.flatnonzero(np.abs(flat) > CUT)
        while outside.size:
            flat[outside] = again = rng.standard_normal(outside.size, np.float32)
            outside = outside[np.abs(again) > CUT]
        values *= np.float32(self.std)
        return values


_NOTED: ContextVar[dict[str, Any] | None] = ContextVar("noted", default=None)


@contextmanager
def noted() -> Iterator[dict[str, Any]]:
    """The initializers of all parameters that modules make inside, by path ("encoder/embed/tokens/table").

    None of ours is called: the parameters are zeros there, to be traced for their shapes.
    """
    found: dict[str, Any] = {}
    token = _NOTED.set(found)
    try:
        yield found
    finally:
        _NOTED.reset(token)


def note(path: Sequence[str], initializer: Any) -> Any:  # noqa: ANN401 (modules of others give plain functions)
    """Of a module: how the parameter at `path` begins, for whoever asks with `noted`; the initializer to call."""
    found = _NOTED.get()
    if found is None:
        return initializer
    found["/".join(path)] = initializer
    return ZEROS if isinstance(initializer, Initializer) else initializer
