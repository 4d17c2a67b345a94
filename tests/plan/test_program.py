"""Compiled ahead of time, kept by program, and short of memory without a crash."""

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.config import Pretrain
from bertjax.errors import ConfigError
from bertjax.models import bert
from bertjax.plan import program
from bertjax.plan.topology import GPUS
from bertjax.plan.verb import planned_batch
from bertjax.session import training_step
from bertjax.train.mesh import MeshConfig, make_mesh
from bertjax.train.state import planned_state

MESH = make_mesh(MeshConfig(data=1))
GIB = 2**30


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "bertjax/plans"


def lowered(width=8):
    return jax.jit(lambda x: x @ x).lower(jnp.zeros((width, width)))


def compiled(of, **options):
    return program.compiled(of, MESH, 0, **{"topology": "local", "quick": False, "about": "it", **options})


def test_what_is_compiled_once_is_read_the_second_time(own_cache, monkeypatch):
    first = compiled(lowered())
    assert first.fits and not first.cached and first.flops == 2 * 8**3 and first.needed == 2 * 4 * 64
    monkeypatch.setattr(program, "_program", None)  # compiling again would fail
    assert compiled(lowered()) == replace(first, cached=True)
    with pytest.raises(TypeError):
        compiled(lowered(), quick=True)
    with pytest.raises(TypeError):
        compiled(lowered(9))


EFFORTS = {name: getattr(jax.config, name) for name in program.EFFORTS if hasattr(jax.config, name)}


def other_effort(name, patch):
    patch.setattr(program.jax, "config", SimpleNamespace(**EFFORTS | {name: "other"}))


CHANGES = {
    "topology": lambda patch: {"topology": "h200:1"},
    "effort": lambda patch: {"quick": True},
    "description of a GPU": lambda patch: patch.setitem(GPUS, "h100", GPUS["h100"]._replace(cores=1)),
    "options of a step": lambda patch: patch.setattr(program, "step_options", lambda _: {"new": 1}),
    "flags": lambda patch: patch.setenv("XLA_FLAGS", "--new"),
    **{name: partial(other_effort, name) for name in EFFORTS},
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_a_compiler_is_told_makes_another_program(change, monkeypatch):
    asked, of = {"topology": "h100:1", "quick": False}, lowered()
    before = program._hash(of, MESH, **asked)
    assert program._hash(of, MESH, **asked) == before
    with monkeypatch.context() as patch:
        changed = asked | (CHANGES[change](patch) or {})
        assert program._hash(of, MESH, **changed) != before


def test_what_was_kept_broken_is_made_again(own_cache):
    first = compiled(lowered())
    (file,) = own_cache.iterdir()
    for text in ("{", "{}", json.dumps({**json.loads(file.read_text()), "new": 1})):
        file.write_text(text)
        again = compiled(lowered())
        assert not again.cached and replace(again, seconds=first.seconds) == first


def test_efforts_are_those_asked_for_and_only_while_compiling():
    seen = []
    fake = SimpleNamespace(as_text=lambda: "program", compile=lambda: seen.append(effort()) or lowered().compile())
    effort = lambda: jax.config.jax_optimization_level  # noqa: E731
    usual = effort()
    for quick in (True, False):
        compiled(fake, quick=quick)
    assert seen == ["O0", usual] and effort() == usual != "O0"


MESSAGES = {
    "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (43.89G) exceeds "
    "available HBM (15.75G).": (round(43.89 * GIB) - GIB, round(15.75 * GIB)),
    "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 17.00G of 15.75G hbm. Exceeded hbm capacity by "
    "1.25G.": (16 * GIB, round(15.75 * GIB)),
}


@pytest.mark.parametrize("message", MESSAGES)
def test_too_little_memory_is_an_answer(message, own_cache):
    def fail():
        raise jax.errors.JaxRuntimeError(message)

    short = SimpleNamespace(as_text=lambda: message, compile=fail)
    found = program.compiled(short, MESH, GIB, topology="local", quick=False, about="it")
    temporaries, available = MESSAGES[message]
    assert (found.fits, found.temporaries, found.available) == (False, temporaries, available)
    assert found.needed == temporaries + GIB


def test_what_else_a_compiler_lacks_is_told():
    def fail():
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: CompileTimeScopedVmemOom: limit 16.00M\nmore")

    short = SimpleNamespace(as_text=lambda: "program", compile=fail)
    with pytest.raises(ConfigError, match=r"cannot compile it for v5e:1x1: .*limit 16.00M; try --attention einsum$"):
        program.compiled(short, MESH, GIB, topology="v5e:1x1", quick=False, about="it")


LARGE_ARGUMENTS = """
import jax, jax.numpy as jnp
from bertjax.plan.program import compiled
from bertjax.plan.topology import devices_of
from bertjax.train.mesh import MeshConfig, P, make_mesh

def step(rows):  # 10 GiB that are changed in place, and a copy of some of them that has to be whole
    return rows + 1, jnp.sort(rows[: 3 << 19], axis=0).sum()

for topology in ("v5e:1x1", "v4:2x2x1"):
    mesh = make_mesh(MeshConfig(data=1), devices_of(topology, 1)[1])
    rows = jax.ShapeDtypeStruct((10 << 18, 1024), jnp.float32, sharding=jax.sharding.NamedSharding(mesh, P()))
    found = compiled(
        jax.jit(step, donate_argnums=0).lower(rows), mesh, 10 << 30, topology=topology, quick=True, about="it"
    )
    print("found", found.fits, found.arguments, found.needed)
"""


@pytest.mark.skipif(not find_spec("libtpu"), reason="libtpu is not installed (bertjax[tpu])")
def test_arguments_count_once_where_memory_is_short():
    done = subprocess.run([sys.executable, "-c", LARGE_ARGUMENTS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    short, fitting = (line.split()[1:] for line in done.stdout.splitlines() if line.startswith("found"))
    assert (short[0], fitting[0]) == ("False", "True") and int(fitting[2]) > 16 * GIB
    assert int(short[2]) == pytest.approx(int(fitting[2]), rel=0.02)


def test_other_failures_are_not_hidden():
    def fail():
        raise jax.errors.JaxRuntimeError("INTERNAL: no")

    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        compiled(SimpleNamespace(as_text=lambda: "x", compile=fail))


@pytest.mark.parametrize(("length", "packing"), [(128, False), (512, True)])
def test_flops_by_formula_are_those_the_compiler_counts(length, packing):
    model = replace(bert.PRESETS["base"], layers=2)  # its layers are not in a loop: all of them are counted
    config = Pretrain(model=model, batch_size=8, length=length, packing=packing)
    objective, update = config.objective.build(model), config.optimizer.build(10)
    batch = planned_batch(config, config.phases[0], MESH)
    step = training_step(config, objective, update, config.optimizer.schedule(10), MESH)
    lowered = step.lower(planned_state(objective, update, MESH), batch)
    formula = 8 * length * config.objective.flops_per_token(model, length)
    assert 1.0 <= compiled(lowered).flops / formula <= 1.08


def test_the_planned_batch_is_cut_over_the_mesh():
    mesh = make_mesh(MeshConfig(data=4, fsdp=2))
    config = Pretrain(batch_size=16, length=32)
    batch = planned_batch(config, config.phases[0], mesh)
    assert batch["tokens"].shape == (16, 32) and batch["tokens"].sharding.shard_shape((16, 32)) == (2, 32)
    assert batch["masked_weights"].dtype == np.float32


def test_where_nothing_can_be_kept_the_answer_is_not_lost(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))
    assert not compiled(lowered()).cached and not compiled(lowered()).cached
