"""Rooflines in round numbers, and what is said of them."""

from dataclasses import replace

import pytest

from bertjax.chips import Chip
from bertjax.plan import tables
from bertjax.plan.estimate import estimate, roofline, work
from bertjax.plan.hlo import Collective
from bertjax.plan.program import Program

CHIP = Chip(
    "chip", flops=100.0, float32=50.0, memory=1000.0, bandwidth=10.0, links=5.0, network=2.0, source="", kind=""
)
PROGRAM = Program(fits=True, temporaries=600, arguments=300, code=100, flops=1.0, traffic=900.0)


def sending(axes, devices, sent, links=0.0):
    return Collective("all-reduce", axes, devices, 1, 1, 1, sent, links)


def floor(program=PROGRAM, chip=CHIP, *, flops=400.0, dtype="bfloat16", slices=1):
    return roofline(program, chip, flops, dtype=dtype, slices=slices)


def test_each_resource_at_its_peak_and_the_slowest_binds():
    assert floor() == (4.0, 90.0, 0.0, 0.0) and floor().binds == "memory" and floor().seconds == 90.0
    assert floor(flops=90_000.0).binds == "compute"
    assert floor(dtype="float32").compute == 8.0
    busy = replace(PROGRAM, collectives=(sending(("data",), 2, 1000), sending(("dcn",), 2, 400)))
    assert floor(busy, slices=2) == (4.0, 90.0, 200.0, 200.0)


def test_devices_of_a_slice_that_are_in_one_collective_share_its_network():
    ring = replace(PROGRAM, collectives=(sending(("dcn", "data"), 16, 400),))
    assert floor(ring, slices=2)[2:] == (80.0, 25.0)


def test_a_collective_has_the_links_of_its_groups():
    torus = CHIP._replace(ports=4)
    one, both = sending(("fsdp",), 4, 1000, 1.0), sending(("data",), 4, 1000, 2.0)
    assert floor(replace(PROGRAM, collectives=(one,)), torus).links == 1000 / (5 / 4)
    assert floor(replace(PROGRAM, collectives=(one, both)), torus).links == 1000 / (5 / 4) + 1000 / (5 / 2)
    assert floor(replace(PROGRAM, collectives=(sending(("data",), 4, 1000),)), torus).links == 1000 / 5  # not known


def test_where_a_speed_is_not_known_the_rest_is_estimated():
    told = estimate(floor(), dtype="bfloat16", tokens=180, useful=3.0)
    assert told["dtype"] == "bfloat16" and told["not_counted"] == [] and "not counted" not in told["is"]
    assert told["milliseconds"] == {"compute": 4e3, "memory": 90e3, "links": 0.0, "network": 0.0}
    assert (told["binds"], told["tokens_per_second"], told["mfu"]) == ("memory", 2.0, 3 / 90)
    across = replace(PROGRAM, collectives=(sending(("dcn",), 2, 400),))
    told = estimate(floor(across, CHIP._replace(network=0), slices=2), dtype="bfloat16", tokens=180, useful=3.0)
    assert told["not_counted"] == ["network"] and "network" not in told["milliseconds"]
    assert "network, whose speed is not known, is not counted" in told["is"]
    assert (told["binds"], told["step_milliseconds"], told["tokens_per_second"]) == ("memory", 90e3, 2.0)


@pytest.mark.parametrize(
    ("ratio", "remat", "times"),
    [
        *((None, "none", 1.0), (None, "dots", 1.0), (0.9, "none", 1.0), (1.2, "dots", 1.2)),
        *((ratio, "blocks", 4 / 3) for ratio in (None, 0.9, 1.02, 1.29)),  # of loops one round is counted
        (1.4, "blocks", 1.4),
    ],
)
def test_what_is_computed_again_is_work_too(ratio, remat, times):
    assert work(300.0, ratio, remat) == 300.0 * times


@pytest.mark.parametrize(
    ("ratio", "remat", "used", "shared", "kernels", "why"),
    [
        (1.14, "none", 0.95, False, 0, ": it computes some of it again, to save memory"),
        (1.14, "none", 0.95, True, 0, ": it computes some of it again, to save memory, or does some of it on several"),
        (1.14, "none", 0.1, True, 0, ": it does some of it on several devices"),
        (0.85, "none", 0.95, False, 0, ": of a loop one round"),
        (0.85, "none", 0.95, True, 24, ": nothing of 24 calls of kernels"),
        (1.03, "none", 0.95, True, 0, ""),
        (1.14, "dots", 0.95, True, 0, ""),
        (1.14, "none", 0.1, False, 0, ""),
    ],
)
def test_why_the_compiler_counts_another_number_is_told(ratio, remat, used, shared, kernels, why):
    said = tables.counted(ratio, remat, used, shared=shared, kernels=kernels)
    assert said.startswith(f" (the compiler counts {ratio:.2f} times as many{why}") and (why or said.endswith("many)"))
    assert tables.counted(None, remat, used, shared=shared, kernels=kernels) == ""
