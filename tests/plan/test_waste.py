"""Data parallelism sends the gradient once, and nothing else of any size: read from the compiled program."""

from dataclasses import replace

import jax
import pytest
from helpers import DROPOUT, make_batch

from bertjax.objectives import mlm
from bertjax.plan.hlo import collectives
from bertjax.train.mesh import MeshConfig, abstract_batch, make_mesh
from bertjax.train.optim import Optimizer
from bertjax.train.state import planned_state
from bertjax.train.step import make_train_step

FIGURES = 16  # numbers besides the gradient: weights and metrics


@pytest.mark.parametrize(("config", "micro_batches"), [(MeshConfig(8), 1), (MeshConfig(4, dcn=2), 2)])
def test_one_reduction_of_the_gradient_and_no_gather(config, micro_batches):
    mesh = make_mesh(config)
    objective, update = mlm.Config().build(replace(DROPOUT, layers=1)), Optimizer().build(10)
    state = planned_state(objective, update, mesh)
    step = make_train_step(objective, update, mesh, micro_batches=micro_batches)
    text = step.lower(state, abstract_batch(make_batch(), 16, mesh)).compile().as_text()
    found = collectives(text, dict(mesh.shape))
    assert {one.kind for one in found} == {"all-reduce"}
    assert {one.axes for one in found} == {tuple(name for name in ("dcn", "data") if mesh.shape[name] > 1)}
    assert sum(one.times for one in found) == 2  # the weights of the loss, then the gradient
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    assert count < sum(one.elements for one in found) <= count + FIGURES
