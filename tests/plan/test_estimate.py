"""Rooflines in round numbers, and what is said of them."""

from dataclasses import replace

import pytest

from bertjax.chips import Chip
from bertjax.plan import tables
from bertjax.plan.estimate import estimate, roofline, work
from bertjax.plan.hlo import Collective
from bertjax.plan.program import Program

CHIP = Chip("chip", flops=100.0, memory=1000.0, bandwidth=10.0, links=5.0, network=2.0, source="", kind="")
PROGRAM = Program(True, 600, 300, 100, 0, 1.0, 900.0, (), 0.0)


def sending(axes, devices, sent):
    return Collective("all-reduce", axes, devices, 1, 1, 1, sent)


def floor(program=PROGRAM, chip=CHIP, *, flops=400.0, micro_batches=1, slices=1):
    return roofline(program, chip, flops, micro_batches=micro_batches, slices=slices)


def test_each_resource_at_its_peak_and_the_slowest_binds():
    assert floor() == (4.0, 90.0, 0.0, 0.0) and floor().binds == "memory" and floor().seconds == 90.0
    assert floor(flops=90_000.0).binds == "compute"
    busy = replace(PROGRAM, collectives=(sending(("data",), 2, 1000), sending(("dcn",), 2, 400)))
    assert floor(busy, slices=2) == (4.0, 90.0, 200.0, 200.0)


def test_devices_of_a_slice_that_are_in_one_collective_share_its_network():
    ring = replace(PROGRAM, collectives=(sending(("dcn", "data"), 16, 400),))
    assert floor(ring, slices=2)[2:] == (80.0, 25.0)


def test_what_micro_batches_read_counts_as_often_as_they_are():
    assert floor(flops=0.0, micro_batches=4).memory == (600 + 300 * 4) / 10


def test_where_a_speed_is_not_known_nothing_is_said_of_what_binds():
    told = estimate(floor(), tokens=180, useful=3.0)
    assert told["milliseconds"] == {"compute": 4e3, "memory": 90e3, "links": 0.0, "network": 0.0}
    assert (told["binds"], told["tokens_per_second"], told["mfu"]) == ("memory", 2.0, 3 / 90)
    across = replace(PROGRAM, collectives=(sending(("dcn",), 2, 400),))
    missing = {
        ("network",): floor(across, CHIP._replace(network=0), slices=2),
        ("memory",): floor(replace(across, bytes_accessed=0.0), slices=2),
        ("memory", "network"): floor(replace(across, bytes_accessed=0.0), CHIP._replace(network=0), slices=2),
    }
    for names, found in missing.items():
        told = estimate(found, tokens=180, useful=3.0)
        assert told["not_counted"] == [*names] and not {*names} & {*told["milliseconds"]}
        assert told["is"].endswith(f"{' and '.join(names)} not counted")
        assert not {"binds", "step_milliseconds", "tokens_per_second", "mfu"} & {*told}


@pytest.mark.parametrize(
    ("ratio", "remat", "times"),
    [(None, "none", 1.0), (None, "dots", 1.0), (None, "blocks", 4 / 3), (1.29, "blocks", 1.29), (0.9, "none", 1.0)],
)
def test_what_is_computed_again_is_work_too(ratio, remat, times):
    assert work(300.0, ratio, remat) == 300.0 * times


@pytest.mark.parametrize(
    ("sizes", "used", "left", "said"),
    [
        ({"data": 2, "tensor": 2}, 4, 4, "4 devices have nothing to do: give --mesh.data 4, or leave it out"),
        ({"data": 2, "tensor": 3}, 6, 2, "2 devices have nothing to do: tensor 3 does not divide 8"),
        ({"dcn": 2, "data": 1, "fsdp": 3}, 6, 2, "2 devices have nothing to do: dcn 2 x fsdp 3 does not divide 8"),
        ({"data": 1, "tensor": 3}, 3, 5, "5 devices have nothing to do: give --mesh.data 2, or leave it out"),
    ],
)
def test_sizes_that_leave_devices_over_are_named(sizes, used, left, said):
    mesh = {name: 1 for name in ("dcn", "data", "fsdp", "seq", "tensor")} | sizes
    assert tables.idle(mesh, used, left) == said


def test_what_a_compiler_computes_again_for_want_of_memory_is_told():
    assert tables.counted(1.14, "none", 0.95).endswith("again, to save memory")
    assert tables.counted(0.85, "none", 0.95) == "the compiler counts 0.85 times as many: of a loop one round"
    for ratio, remat, used in ((1.03, "none", 0.95), (1.14, "dots", 0.95), (1.14, "none", 0.1)):
        assert tables.counted(ratio, remat, used) == f"the compiler counts {ratio:.2f} times as many"
