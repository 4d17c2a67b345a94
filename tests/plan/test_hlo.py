"""Collectives read from HLO text: made by hand in all the forms XLA writes, and from real programs."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from bertjax.plan.hlo import collectives

AXES = {"data": 2, "fsdp": 2, "tensor": 2}


def entry(*lines, before=""):
    body = "\n".join(f"  {line}" for line in lines)
    return f"HloModule m\n\n{before}ENTRY %main.1 (p: f32[4]) -> f32[4] {{\n{body}\n}}\n"


@pytest.mark.parametrize(
    ("groups", "axes"),
    [
        ("{{0,1},{2,3},{4,5},{6,7}}", ("tensor",)),
        ("{{0,2,4,6},{1,3,5,7}}", ("data", "fsdp")),
        ("{}", ("data", "fsdp", "tensor")),
        ("[4,2]<=[8]", ("tensor",)),
        ("[2,4]<=[4,2]T(1,0)", ("data", "fsdp")),
        ("[4,2]<=[2,2,2]T(0,2,1)", ("fsdp",)),
        ("[4,2]<=[2,4]T(1,0)", ("data",)),
        ("mesh['axis_0'=4,'axis_1'=1,'axis_2'=2] {'axis_2'}", ("tensor",)),
        ("mesh['axis_0'=8,'axis_1'=1] {'axis_0','axis_1'}", ("data", "fsdp", "tensor")),
        ("mesh['axis_0'=2,'axis_1'=4] {'axis_1':(2)2}", ("tensor",)),
        ("mesh['axis_0'=2,'axis_1'=4] {'axis_1':(1)2}", ("fsdp",)),
        ("mesh['axis_0'=2,'axis_1'=1,'axis_2'=4], device_ids=([4,2]T(1,0)) {'axis_0'}", ("tensor",)),
        ("mesh['axis_0'=2,'axis_1'=2,'axis_3'=2], device_ids=([2,2,2]T(2,1,0)) {'axis_3'}", ("data",)),
    ],
)
def test_every_spelling_of_groups(groups, axes):
    text = entry(f"ROOT %r = f32[4,8]{{1,0}} all-reduce(%p), channel_id=1, replica_groups={groups}, to_apply=%add")
    n = 2 ** len(axes)
    assert collectives(text, AXES) == [("all-reduce", axes, n, 1, 32, 128, round(2 * (n - 1) / n * 128), 0.0)]


@pytest.mark.parametrize(
    ("line", "kind", "size", "sent"),
    [
        ("(bf16[8]{0}, f32[]) all-reduce(%a, %b)", "all-reduce", 20, 20),
        ("f32[16] all-gather(%a)", "all-gather", 64, 32),
        ("(f32[8], f32[16]) all-gather-start(%a)", "all-gather", 64, 32),
        ("f32[16] reduce-scatter(%a)", "reduce-scatter", 128, 64),
        ("((f32[32], f32[6]), (f32[16], f32[3])) reduce-scatter-start(%a)", "reduce-scatter", 152, 76),
        ("s32[16] all-to-all(%a)", "all-to-all", 64, 32),
        ("pred[16]{0:T(8,128)(4,1)S(1)} all-gather(%a)", "all-gather", 16, 8),
    ],
)
def test_kinds_and_what_each_device_sends(line, kind, size, sent):
    (found,) = collectives(entry(f"%x = {line}, replica_groups=[4,2]<=[8]"), AXES)
    assert (found.kind, found.bytes, found.sent) == (kind, size, sent)


def test_permutations_tell_their_axis_by_the_first_pair_that_moves():
    pairs = "source_target_pairs={{0,0},{1,3},{3,1},{2,2}}"
    text = entry(
        f"%s = (f32[4], f32[4], u32[], u32[]) collective-permute-start(%p), {pairs}",
        "%d = f32[4] collective-permute-done(%s)",
    )
    (found,) = collectives(text, AXES)
    assert (found.kind, found.axes, found.times) == ("collective-permute", ("fsdp",), 1)


def test_links_are_those_of_the_first_group():
    lines = (
        "%x = f32[4] all-reduce(%p), replica_groups={{0,1},{2,3},{4,5},{6,7}}",
        "%y = f32[4] all-reduce(%p), replica_groups={{0,2,4,6},{1,3,5,7}}",
        "%z = f32[4] collective-permute(%p), source_target_pairs={{0,0},{1,3},{3,1}}",
    )
    links = {(0, 1): 0.5, (0, 2, 4, 6): 3.0, (1, 3): 2.0}
    found = collectives(entry(*lines), AXES, lambda group: links[tuple(group)])
    assert {one.axes: one.links for one in found} == {("tensor",): 0.5, ("data", "fsdp"): 3.0, ("fsdp",): 1.0}
    assert not any(one.links for one in collectives(entry(*lines), AXES))


def test_a_group_of_one_sends_nothing():
    assert not collectives(entry("%x = f32[4] all-reduce(%p), replica_groups=[8,1]<=[8]"), AXES)


REDUCE = "%x = f32[4] all-reduce(%p), replica_groups=[4,2]<=[8]"


def test_loops_count_as_often_as_they_run():
    def loop(config, condition):
        inside = (
            f"%body (q: f32[4]) -> f32[4] {{\n  {REDUCE}\n}}\n\n%cond (q: f32[4]) -> pred[] {{\n{condition}\n}}\n\n"
        )
        return entry(f"%w = f32[4] while(%p), condition=%cond, body=%body{config}", before=inside)

    known = ', backend_config={"known_trip_count":{"n":"5"},"x":{}}'
    for text, times in (
        (loop(known, ""), 5),
        (loop("", "  %c = s32[]{:T(128)} constant(7)\n  ROOT %l = pred[] compare(%i, %c), direction=LT"), 7),
    ):
        assert [found.times for found in collectives(text, AXES)] == [times]


def test_what_xla_for_tpu_does():
    scatter = f"%all-reduce-scatter.3 (p: f32[4]) -> f32[2] {{\n  {REDUCE}\n}}\n\n"
    (found,) = collectives(
        entry("%f = f32[2] fusion(%p), kind=kCustom, calls=%all-reduce-scatter.3", before=scatter), AXES
    )
    assert (found.kind, found.bytes, found.sent) == ("reduce-scatter", 16, 8)
    one = "%all = f32[4] all-reduce(%p), channel_id=1, replica_groups=[4,2]<=[8]"
    scatters = "".join(f"%all-reduce-scatter.{i} (p: f32[4]) -> f32[2] {{\n  {one}\n}}\n\n" for i in range(3))
    text = entry(*(f"%f{i} = f32[2] fusion(%p), calls=%all-reduce-scatter.{i}" for i in range(3)), before=scatters)
    assert [(found.kind, found.times) for found in collectives(text, AXES)] == [("reduce-scatter", 3)]
    piece = "%x = f32[8] all-gather(%p), channel_id=9, replica_groups=[4,2]<=[8]"
    pieces = "".join(f"%piece.{i} (p: f32[4]) -> f32[8] {{\n  {piece}\n}}\n\n" for i in range(3))
    text = entry(*(f"%f{i} = f32[8] fusion(%p), calls=%piece.{i}" for i in range(3)), before=pieces)
    assert [(found.kind, found.times) for found in collectives(text, AXES)] == [("all-gather", 1)]


def test_parts_of_one_reduction_share_a_channel_and_all_count():
    part = "all-reduce(%p), channel_id=1, replica_groups=[4,2]<=[8]"
    found = collectives(entry(f"%x = f32[4] {part}", f"%y = f32[4] {part}", f"%z = f32[8] {part}"), AXES)
    assert [(one.times, one.elements) for one in found] == [(3, 16)]


def test_what_goes_from_slice_to_slice():
    text = entry(
        "%s = (f32[2,4]{1,0:T(1,128)}, u32[], token[]) send(%p, %t), channel_id=3, is_host_transfer=true, "
        'frontend_attributes={_xla_megascale_target="{1,2}x{0:7}",_xla_megascale_transfer_type="ALL_REDUCE"}',
        "%x = f32[4] all-reduce(%p), channel_id=3, replica_groups={{0,1,2,3}}",
        "%y = f32[8] all-reduce(%p), channel_id=3, replica_groups={{0,1,2,3}}",  # channels are not numbered apart
    )
    found = collectives(text, {"dcn": 2, "data": 4})
    assert [(c.kind, c.axes, c.times, c.bytes, c.sent) for c in found] == [
        ("all-reduce", ("data",), 2, 48, 72),
        ("all-reduce", ("dcn",), 1, 32, 32),
    ]


MESH = Mesh(np.array(jax.devices()).reshape(2, 2, 2), tuple(AXES), axis_types=(AxisType.Auto,) * 3)


def compiled_text(function, spec):
    array = jax.ShapeDtypeStruct((16, 32), jnp.float32, sharding=NamedSharding(MESH, spec))
    return jax.jit(jax.shard_map(function, mesh=MESH, in_specs=spec, out_specs=P(), check_vma=False)).lower(array).compile().as_text()  # fmt: skip  # noqa: E501


@pytest.mark.parametrize("axes", [("data",), ("fsdp",), ("tensor",), ("data", "tensor"), ("fsdp", "tensor")])
@pytest.mark.parametrize(
    ("function", "kind", "size"),
    [
        (jax.lax.psum, "all-reduce", 2048),
        (partial(jax.lax.all_gather, tiled=True), "all-gather", 2048),
        (partial(jax.lax.psum_scatter, tiled=True), "reduce-scatter", 2048),
    ],
)
def test_real_programs(function, kind, size, axes):
    n = 2 ** len(axes)
    spec = P(None, None) if kind != "all-gather" else P(axes, None)
    (found,) = collectives(compiled_text(lambda x: function(x, axes), spec), AXES)
    assert (found.kind, found.axes, found.devices, found.times, found.bytes) == (kind, axes, n, 1, size)


def test_a_real_loop():
    text = compiled_text(lambda x: jax.lax.scan(lambda s, _: (jax.lax.psum(s, "fsdp"), None), x, length=6)[0], P())
    assert [(found.kind, found.axes, found.times) for found in collectives(text, AXES)] == [
        ("all-reduce", ("fsdp",), 6)
    ]
