"""A training step compiled ahead of time, and what its compiler says of it: kept, as compiling takes minutes."""

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from bertjax.compiled import cache_folder, step_options
from bertjax.errors import ConfigError
from bertjax.jsonio import write_json
from bertjax.parsing import parse
from bertjax.plan.hlo import Collective, collectives
from bertjax.plan.topology import COMPILERS, GPUS, described_gpu, links_of
from bertjax.plan.traffic import traffic
from bertjax.train.log import console
from bertjax.train.mesh import bytes_on_device
from bertjax.train.state import TrainState
from bertjax.train.step import TrainStep

FORMAT = 7  # of what is kept
KERNEL = 'custom_call_target="tpu_custom_call"'  # in HLO text


@dataclass(frozen=True)
class Program:
    """What is known of a compiled program: bytes are of one device."""

    fits: bool  # as far as the compiler judges: those for GPUs do not
    temporaries: int
    arguments: int  # those of the step: state and batch
    code: int = 0
    available: int = 0  # of memory, where the compiler said; else 0
    flops: float = 0.0  # of one device, every loop counted once; 0 where it does not fit, or nobody counts
    traffic: float = 0.0  # bytes read and written in its memory, every loop as often as it runs; else 0
    collectives: tuple[Collective, ...] = ()
    seconds: float = 0.0  # of compiling
    cached: bool = False
    kernels: int = 0  # calls of Pallas' kernels for TPUs, whose FLOPs nobody counts

    @property
    def needed(self) -> int:
        """All of the memory it takes; results lie where the arguments were."""
        return self.arguments + self.temporaries + self.code


def compiled_step(
    step: TrainStep,
    state: TrainState,
    batch: Mapping[str, jax.ShapeDtypeStruct],
    mesh: Mesh,
    *,
    topology: str,
    quick: bool,
) -> Program:
    """`compiled`, of a training step for a state and a batch of these shapes."""
    rows, length = batch["tokens"].shape
    arguments = bytes_on_device(state) + bytes_on_device(batch)
    about = f"{rows:,} x {length:,}"
    return compiled(step.lower(state, batch), mesh, arguments, topology=topology, quick=quick, about=about)


def compiled(lowered: Any, mesh: Mesh, arguments: int, *, topology: str, quick: bool, about: str) -> Program:  # noqa: ANN401 (a jax.stages.Lowered)
    """Compiles, or reads what an earlier compilation of the same program found; `arguments` are its bytes a device."""
    folder = cache_folder("plans")
    path = folder / f"{_hash(lowered, mesh, topology, quick)}.json" if folder else None
    known = path and _read(path)
    if known:
        return known
    began = time.perf_counter()
    with _waiting(f"compiling for {about} on {topology}"), _lowest_effort() if quick else nullcontext():
        try:
            made = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            short = lacking(str(error), arguments)
            if not short:
                said = str(error).splitlines()[0][:500]
                raise ConfigError(f"XLA cannot compile it for {topology}: {said}; try --attention einsum") from error
            temporaries, available = short
            found = Program(fits=False, temporaries=temporaries, arguments=arguments, available=available)
        else:
            found = _program(made, mesh)
    found = replace(found, seconds=round(time.perf_counter() - began, 1))
    if path:
        write_json(path, {**vars(found), "collectives": [one._asdict() for one in found.collectives]})
    return found


def _program(made: Any, mesh: Mesh) -> Program:  # noqa: ANN401 (a jax.stages.Compiled)
    text, memory, cost = made.as_text(), made.memory_analysis(), made.cost_analysis() or {}  # of GPUs XLA tells no cost
    return Program(
        fits=True,
        temporaries=memory.temp_size_in_bytes,
        arguments=memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes,
        code=memory.generated_code_size_in_bytes,
        flops=float(cost.get("flops", 0.0)),
        traffic=traffic(text),
        collectives=tuple(collectives(text, dict(mesh.shape), partial(links_of, devices=[*mesh.devices.flat]))),
        kernels=text.count(KERNEL),
    )


def lacking(message: str, arguments: int) -> tuple[int, int] | None:
    """Bytes of temporaries and of available memory, from what a compiler says when these are too many; None where it
    lacks something else.

    What libtpu calls temporaries there has the arguments in it.
    """
    size = r"([\d.]+)([KMGT]?)"
    forms = (rf"HLO temporaries \({size}\) exceeds available HBM \({size}\)", rf"Used {size} of {size} hbm")
    found = next(filter(None, (re.search(form, message) for form in forms)), None)
    return found and (max(0, _bytes(found[1], found[2]) - arguments), _bytes(found[3], found[4]))


def _bytes(number: str, unit: str) -> int:
    return round(float(number) * 2 ** (10 * " KMGT".index(unit or " ")))


def _hash(lowered: Any, mesh: Mesh, topology: str, quick: bool) -> str:  # noqa: ANN401 (a jax.stages.Lowered)
    """Of the program and of all that its compiler is told besides."""
    chip = topology.partition(":")[0]
    places = [f"{d.device_kind} {getattr(d, 'coords', d.id)}" for d in mesh.devices.flat]
    about = {
        "format": FORMAT,
        "chips": [topology, places, dict(mesh.shape), described_gpu(chip) if chip in GPUS else ""],
        "efforts": [quick, *(str(getattr(jax.config, name, "")) for name in EFFORTS)],
        "options": step_options(mesh.devices.flat[0].platform),
        "flags": [os.environ.get(name, "") for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")],
        "versions": [*map(_version, ["jax", "jaxlib", *(name for _, own, _ in COMPILERS.values() for name in own)])],
    }
    return hashlib.sha256((json.dumps(about) + lowered.as_text()).encode()).hexdigest()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _read(path: Path) -> Program | None:
    try:
        data: Mapping[str, Any] = parse(path.read_bytes())
        each = tuple(Collective(**{**one, "axes": tuple(one["axes"])}) for one in data["collectives"])
        return Program(**{**data, "collectives": each, "cached": True})
    except (OSError, ValueError, TypeError, KeyError):  # not there, or not whole: it is made again
        return None


LEVEL = "jax_optimization_level"
EFFORTS = (LEVEL, "jax_memory_fitting_level", "jax_exec_time_optimization_effort", "jax_memory_fitting_effort")
"""What jax calls those of a compiler; the last two up to 0.11."""


@contextmanager
def _lowest_effort() -> Iterator[None]:
    before = getattr(jax.config, LEVEL)
    jax.config.update(LEVEL, "O0")
    try:
        yield
    finally:
        jax.config.update(LEVEL, before)


@contextmanager
def _waiting(what: str) -> Iterator[None]:
    """Seconds on the screen while something takes long; one line where that is not a terminal."""
    if not console.is_terminal:
        console.print(f"{what} ...")
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        progress.add_task(what, total=None)
        yield
