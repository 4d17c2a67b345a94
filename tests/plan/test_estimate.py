"""Rooflines and what would mend too much memory, in round numbers."""

from dataclasses import replace

import pytest

from bertjax.chips import Chip
from bertjax.plan import tables
from bertjax.plan.estimate import Shape, cures, roofline
from bertjax.plan.hlo import Collective
from bertjax.plan.program import Program

CHIP = Chip("chip", flops=100.0, memory=1000.0, bandwidth=10.0, links=5.0, network=2.0, source="", kind="")
PROGRAM = Program(True, 600, 300, 100, 0, 1.0, 900.0, (), 0.0)


def sending(axes, sent):
    return Collective("all-reduce", axes, 2, 1, 1, 1, sent)


def test_each_resource_at_its_peak_and_the_slowest_binds():
    found = roofline(PROGRAM, CHIP, 400.0, micro_batches=1)
    assert found == (4.0, 90.0, 0.0, 0.0) and found.binds == "memory" and found.seconds == 90.0
    busy = replace(PROGRAM, collectives=(sending(("data",), 1000), sending(("dcn", "data"), 400)))
    assert roofline(busy, CHIP, 400.0, 1) == (4.0, 90.0, 200.0, 200.0)
    assert roofline(busy, CHIP, 90_000.0, 1).binds == "compute"
    assert roofline(busy, CHIP._replace(network=0), 400.0, 1).network == 0.0  # not known


def test_what_micro_batches_read_counts_as_often_as_they_are():
    assert roofline(PROGRAM, CHIP, 0.0, micro_batches=4).memory == (600 + 300 * 4) / 10


KEPT = {"none": 1600.0, "dots": 700.0, "blocks": 400.0}
SHAPE = Shape(64, 1, "none", rows=4, fsdp=1, state=300, gradient=100, activations=KEPT)
SHORT = replace(PROGRAM, fits=False, temporaries=1700)


def test_too_many_activations_are_cut_or_computed_again():
    # 1000 less 300 of arguments, 100 of program, 100 of gradient and, with micro-batches, 100 of their sum: 500 or 400.
    assert cures(SHAPE, SHORT, 1000) == [
        "--micro-batches 4 (the gradient stays the same)",
        "--batch-size 16",
        "--remat dots --micro-batches 2 (somewhat more work)",
        "--remat blocks (a third more work)",
        "--mesh.fsdp 2 (parameters and optimizer cut 2 times as finely)",
    ]
    assert cures(SHAPE._replace(remat="blocks"), SHORT, 1000)[:2] == [
        "--micro-batches 4 (a third more work)",
        "--batch-size 16",
    ]


def test_a_compiler_that_did_what_it_could_knows_less_than_the_formula():
    squeezed = replace(SHORT, temporaries=600)
    assert cures(SHAPE, squeezed, 1000)[0] == "--micro-batches 4 (the gradient stays the same)"


def test_micro_batches_go_on_from_those_there_are():
    found = cures(SHAPE._replace(micro_batches=2), SHORT, 1000)
    assert found[:2] == ["--micro-batches 8 (the gradient stays the same)", "--batch-size 16"]


def test_too_large_a_state_is_cut_over_devices():
    large = replace(SHORT, arguments=1200)
    found = cures(SHAPE._replace(state=1200, gradient=400), large, 1000)
    assert found == ["--mesh.fsdp 4 (parameters and optimizer cut 4 times as finely)"]


@pytest.mark.parametrize("rows", [1, 4])
def test_where_nothing_is_enough_it_says_so(rows):
    shape = SHAPE._replace(state=90_000, gradient=30_000, rows=rows)
    assert cures(shape, replace(SHORT, arguments=90_000), 1000) == [
        "more chips, with --mesh.fsdp, or chips with more memory"
    ]


def test_what_a_compiler_computes_again_for_want_of_memory_is_told():
    assert tables.counted(1.14, "none", 0.95).endswith("again, to save memory")
    for ratio, remat, used in ((1.03, "none", 0.95), (1.14, "dots", 0.95), (1.14, "none", 0.1)):
        assert tables.counted(ratio, remat, used) == f"the compiler counts {ratio:.2f} times as many"
