"""What would mend too much memory, in round numbers."""

from dataclasses import replace

import pytest

from bertjax.config import Pretrain
from bertjax.plan.cures import Shape, cures, shape_of
from bertjax.plan.program import Program
from bertjax.train.mesh import MeshConfig, make_mesh
from bertjax.train.state import planned_state

KEPT = {"none": 1600.0, "dots": 700.0, "blocks": 400.0}
SHAPE = Shape([(0.0, 128, 64)], 0, 1, "none", rows=4, data=4, fsdp=1, state=300, gradient=100, activations=KEPT)
SHORT = Program(fits=False, temporaries=1700, arguments=300, code=100)
CUT = "--mesh.data 2 --mesh.fsdp 2 (parameters and optimizer cut 2 times as finely)"
NOTHING = ["more chips, with --mesh.fsdp, or chips with more memory"]


def test_too_many_activations_are_cut_or_computed_again():
    # 1000 less 300 of arguments, 100 of program, 100 of gradient and, with micro-batches, 100 of their sum: 500 or 400.
    assert cures(SHAPE, SHORT, 1000) == [
        "--micro-batches 4 (the gradient stays the same)",
        "--batch-size 16",
        "--remat dots --micro-batches 2 (somewhat more work)",
        "--remat blocks (a third more work)",
        CUT,
    ]
    assert cures(SHAPE._replace(remat="blocks"), SHORT, 1000)[:2] == [
        "--micro-batches 4 (a third more work)",
        "--batch-size 16",
    ]


def test_more_work_is_not_advised_for_nothing():
    found = cures(SHAPE._replace(activations={**KEPT, "blocks": 650.0}), SHORT, 1000)
    assert "--remat dots --micro-batches 2 (somewhat more work)" in found and "blocks" not in " ".join(found)


def test_what_keeps_as_much_is_no_cure():
    # As on a CPU, whose compiler takes no notice: the formula says less than it found.
    found = cures(SHAPE._replace(activations=dict.fromkeys(KEPT, 700.0)), SHORT, 1000)
    assert found == ["--micro-batches 4 (the gradient stays the same)", "--batch-size 16", CUT]


def test_a_compiler_that_did_what_it_could_knows_less_than_the_formula():
    squeezed = replace(SHORT, temporaries=600)
    assert cures(SHAPE, squeezed, 1000)[0] == "--micro-batches 4 (the gradient stays the same)"


def test_micro_batches_go_on_from_those_there_are():
    found = cures(SHAPE._replace(micro_batches=2), SHORT, 1000)
    assert found[:2] == ["--micro-batches 8 (the gradient stays the same)", "--batch-size 16"]


LATER = SHAPE._replace(batches=[(0.0, 128, 64), (0.1, 512, 64), (0.05, 640, 24)])


def test_a_later_phase_has_an_option_of_its_own_and_micro_batches_are_those_of_all():
    assert cures(SHAPE._replace(batches=LATER.batches[:2], phase=1), SHORT, 1000)[:2] == [
        "--micro-batches 4 (the gradient stays the same)",
        "--later-phases 0.1 512 16",
    ]
    # Rows of 64 and 24 over 4 devices: 2 is what divides them all besides 1, and enough where less is kept.
    assert cures(LATER._replace(phase=1), SHORT, 1000)[0] == "--remat dots --micro-batches 2 (somewhat more work)"
    small = replace(SHORT, temporaries=800)
    assert cures(LATER._replace(phase=2, activations=dict.fromkeys(KEPT, 800.0)), small, 1000)[:2] == [
        "--micro-batches 2 (the gradient stays the same)",
        "--later-phases 0.1 512 64 0.05 640 12",
    ]


def test_too_large_a_state_is_cut_over_the_devices_of_a_slice():
    large = replace(SHORT, arguments=1200)
    shape = SHAPE._replace(state=1200, gradient=400)
    cut = "(parameters and optimizer cut 4 times as finely)"
    assert cures(shape, large, 1000) == [f"--mesh.data 1 --mesh.fsdp 4 {cut}"]
    assert cures(shape._replace(rows=16, data=8, fsdp=2), large, 1000) == [f"--mesh.data 2 --mesh.fsdp 8 {cut}"]
    assert cures(shape._replace(rows=4, data=2), large, 1000) == NOTHING  # two slices of two: 4 would cross them


@pytest.mark.parametrize("data", [1, 4])
def test_where_nothing_is_enough_it_says_so(data):
    shape = SHAPE._replace(state=90_000, gradient=30_000, rows=data, data=data)
    assert cures(shape, replace(SHORT, arguments=90_000), 1000) == NOTHING


def test_the_shape_of_a_run():
    config = Pretrain(batch_size=64, steps=100, later_phases=((0.1, 512, 16),), mesh=MeshConfig(2, 2, dcn=2))
    mesh = make_mesh(config.mesh)
    state = planned_state(config.objective.build(config.model), config.optimizer.build(100), mesh)
    first, second = (shape_of(config, number, mesh, state) for number in (0, 1))
    assert (first.rows, first.data, first.fsdp) == (8, 2, 2) and first.state > 2.9 * first.gradient
    assert second.batches[second.phase] == (0.1, 512, 16)
    assert second.activations["none"] > first.activations["none"]  # longer rows keep more
