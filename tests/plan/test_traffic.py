"""Bytes read and written in a device's memory: of HLO text made by hand, and of real programs."""

import os
import subprocess
import sys
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import pytest

from bertjax.plan.traffic import traffic


def program(*lines, before=""):
    body = "\n".join(f"  {line}" for line in ("%p = f32[100]{0} parameter(0)", "%q = f32[100]{0} parameter(1)", *lines))
    return f"HloModule m\n\n{before}ENTRY %main.1 (p: f32[100], q: f32[100]) -> f32[100] {{\n{body}\n}}\n"


def computation(name, *lines):
    return f"%{name} (a: f32[100]) -> f32[100] {{\n" + "\n".join(f"  {line}" for line in lines) + "\n}\n\n"


@pytest.mark.parametrize(
    ("lines", "size"),
    [
        (["ROOT %x = bf16[100]{0} add(%p, %q)"], 400 + 400 + 200),
        (["ROOT %x = f32[100]{0} multiply(%p, %p)"], 400 + 400),
        (["ROOT %x = f32[100]{0:T(128)S(1)} add(%p, %q)"], 800),  # the result stays on the chip
        (["%x = f32[100]{0:S(1)} negate(%p)", "ROOT %y = f32[100]{0:S(1)} negate(%x)"], 400),
        (["ROOT %x = (f32[100]{0}, f32[100]{0:S(5)}) custom-call(%p, %q)"], 400 + 800),  # in the memory of the host
        (["%c = f32[100]{0} constant({...})", "%b = f32[10,10]{1,0} bitcast(%p)", "ROOT %t = () tuple(%b, %c)"], 0),
        (['ROOT %x = f32[200]{0} custom-call(%p, %q), custom_call_target="ConcatBitcast"'], 0),
        (["ROOT %x = f32[7]{0} dynamic-slice(%p, %i), dynamic_slice_sizes={7}"], 28 + 28),
        (["%i = s32[]{:S(6)} constant(0)", "ROOT %x = f32[100]{0} dynamic-update-slice(%p, %i, %i)"], 4),
        (["%u = f32[7]{0:S(1)} negate(%q)", "ROOT %x = f32[100]{0} dynamic-update-slice(%p, %u)"], 400 + 28),
    ],
)
def test_operands_and_results_in_the_main_memory(lines, size):
    index = "%i = s32[]{:S(6)} parameter(2)"
    assert traffic(program(*([index] if "%i)" in lines[0] else []), *lines)) == size


@pytest.mark.parametrize(
    ("lines", "size"),
    [
        (
            [
                "%s = (f32[100]{0:S(1)}, f32[100]{0}, u32[]{:S(2)}) copy-start(%p)",
                "ROOT %d = f32[100]{0:S(1)} copy-done(%s)",
            ],
            400,
        ),
        (
            [
                "%v = f32[100]{0:S(1)} copy(%p)",
                "%s = (f32[100]{0}, f32[100]{0:S(1)}, u32[]{:S(2)}) copy-start(%v)",
                "ROOT %d = f32[100]{0} copy-done(%s)",
            ],
            400 + 400,
        ),
        (
            [
                "%s = ((f32[100]{0}), f32[25]{0:S(1)}, s32[]{:S(2)}) slice-start(%p), slice={[0:25]}",
                "ROOT %d = f32[25]{0:S(1)} slice-done(%s)",
            ],
            100,
        ),
        (
            [
                "%s = ((f32[100]{0}), f32[25]{0:S(1)}, s32[]) async-start(%p), calls=%wrapped",
                "%u = ((f32[100]{0}), f32[25]{0:S(1)}, s32[]) async-update(%s)",
                "ROOT %d = f32[25]{0:S(1)} async-done(%u)",
            ],
            100,
        ),
        (
            ["%s = (f32[100]{0}, f32[400]{0}) all-gather-start(%p)", "ROOT %d = f32[400]{0} all-gather-done(%s)"],
            400 + 1600,
        ),
        (
            [
                "%s = (f32[100]{0}, u32[], token[]{:S(2)}) send(%p, %p), channel_id=1",
                "ROOT %d = token[]{:S(2)} send-done(%s)",
            ],
            800,
        ),
    ],
)
def test_what_begins_and_ends_apart_counts_once_by_what_is_moved(lines, size):
    wrapped = computation("wrapped", "%a = f32[100]{0} parameter(0)", "ROOT %s = f32[25]{0} slice(%a), slice={[0:25]}")
    assert traffic(program(*lines, before=wrapped)) == size


def fused(*lines, result="f32[100]{0}"):
    inside = computation("f", "%a = f32[100]{0} parameter(0)", "%b = f32[100]{0} parameter(1)", *lines)
    return program(f"ROOT %x = {result} fusion(%p, %q), kind=kLoop, calls=%f", before=inside)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (fused("%n = f32[100]{0} negate(%a)", "ROOT %r = f32[100]{0} add(%n, %b)"), 1200),
        (fused("%s = f32[5]{0} slice(%a)", "ROOT %r = f32[5]{0} negate(%s)", result="f32[5]{0}"), 20 + 20),
        (
            fused(
                "%c = f32[50,2]{1,0} bitcast(%a)",
                "%g = f32[5,2]{1,0} gather(%c, %b)",
                "%s = f32[10]{0} slice(%a)",
                "ROOT %r = f32[5,2]{1,0} add(%g, %s)",
                result="f32[5,2]{1,0}",
            ),
            40 + 40 + 400 + 40,
        ),
        (
            fused(
                "%s = f32[5]{0} slice(%a)",
                "%n = f32[100]{0} add(%a, %b)",
                "ROOT %t = (f32[5]{0}, f32[100]{0}) tuple(%s, %n)",
                result="(f32[5]{0}, f32[100]{0:S(1)})",
            ),
            800 + 20,
        ),
        (fused("%u = f32[5]{0} slice(%b)", "ROOT %r = f32[100]{0} dynamic-update-slice(%a, %u)"), 20 + 20),
        (  # passes one array on, and computes beside a piece of a gather
            fused(
                '%g = f32[200]{0} all-gather(%a), backend_config={"async_collective_fusion_config":{}}',
                "%n = f32[100]{0} negate(%b)",
                "ROOT %t = (f32[100]{0}, f32[100]{0}, f32[200]{0}) tuple(%n, %a, %g)",
                result="(f32[100]{0}, f32[100]{0}, f32[200]{0})",
            ),
            800,
        ),
    ],
)
def test_fusions_read_what_they_take_and_write_what_they_change(text, size):
    assert traffic(text) == size


def test_loops_count_as_often_as_they_run_and_of_branches_the_larger():
    body = computation("body", "%t = (f32[100]{0}) parameter(0)", "%g = f32[100]{0} get-tuple-element(%t), index=0", "ROOT %n = f32[100]{0} negate(%g)")  # fmt: skip  # noqa: E501
    less = computation("less", "ROOT %a = f32[100]{0} parameter(0)")
    loop = '%w = (f32[100]{0}) while(%p), condition=%less, body=%body, backend_config={"known_trip_count":{"n":"5"}}'
    assert traffic(program(loop, before=body + less)) == 5 * 800
    choice = "%c = f32[100]{0} conditional(%q, %p, %p), branch_computations={%body, %less}"
    assert traffic(program(choice, before=body + less)) == 800


def test_real_programs():
    x = jnp.zeros((64, 64))
    assert traffic(jax.jit(jnp.tanh).lower(x).compile().as_text()) == 2 * 4 * 64**2
    turned = jax.jit(lambda x: jax.lax.scan(lambda s, _: (jnp.tanh(s), None), x, length=6)[0]).lower(x).compile()
    assert 6 * 2 * 4 * 64**2 <= traffic(turned.as_text()) <= 8 * 2 * 4 * 64**2


EFFORTS = """
import sys
import jax, jax.numpy as jnp
from bertjax.plan.program import compiled
from bertjax.plan.topology import devices_of
from bertjax.train.mesh import MeshConfig, P, make_mesh

def step(kernels, x):
    def loss(kernels):
        y = x
        for kernel in kernels:
            y = jnp.tanh(y @ kernel)
        return y.sum()
    return [kernel - change for kernel, change in zip(kernels, jax.grad(loss)(kernels))]

mesh = make_mesh(MeshConfig(data=1), devices_of("v5e:1x1", 1)[1])
one = jax.sharding.NamedSharding(mesh, P())
kernels = [jax.ShapeDtypeStruct((1024, 1024), jnp.float32, sharding=one)] * 4
lowered = jax.jit(step).lower(kernels, jax.ShapeDtypeStruct((2048, 1024), jnp.float32, sharding=one))
found = compiled(lowered, mesh, 0, topology="v5e:1x1", quick=sys.argv[1] == "quick", about="it")
print("found", found.traffic)
"""


@pytest.mark.skipif(not find_spec("libtpu"), reason="libtpu is not installed (bertjax[tpu])")
def test_more_effort_moves_no_more(tmp_path, monkeypatch):
    """In a process each: of one program JAX keeps what it compiled first, whatever the effort."""
    found = {}
    for effort in ("quick", "full"):
        asked = [sys.executable, "-c", EFFORTS, effort]
        done = subprocess.run(
            asked, capture_output=True, text=True, env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found[effort] = int(done.stdout.split()[-1])
    kernels = 4 * 4 * 1024**2
    assert 2 * kernels <= found["full"] < 0.9 * found["quick"], found
