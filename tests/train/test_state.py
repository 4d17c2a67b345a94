"""The first state: every parameter is drawn on the host, from the seed and its path alone."""

from dataclasses import replace

import flax.linen as nn
import jax
import numpy as np
import pytest
from helpers import TINY

from bertjax import registry
from bertjax.contracts import Compute, Objective
from bertjax.errors import ConfigError
from bertjax.objectives import mlm, supervised
from bertjax.train import state
from bertjax.train.mesh import MeshConfig, make_mesh, path_of
from bertjax.train.optim import Optimizer
from bertjax.train.state import _traced, init_params, init_state, param_shapes
from bertjax.train.step import make_train_step

ONE = make_mesh(MeshConfig(data=1))


def flat(params):
    return {path_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


@pytest.mark.parametrize("family", registry.names("models"))
@pytest.mark.parametrize("classes", [None, 3], ids=["pretraining", "classes"])
def test_every_parameter_begins_as_in_bert(family, classes):
    sizes = {"width": 64, "heads": 2, "mlp_width": 128, "layers": 1, "vocab_size": 500, "max_length": 64}
    model = replace(registry.find("models", family).Config(), **sizes)
    pretraining = mlm.Config(examples="nsp" if model.type_count > 1 else "full-sentences")
    objective = (pretraining if classes is None else supervised.Config(classes=classes)).build(model)
    params = flat(init_params(objective, seed=0))
    assert {path: leaf.shape for path, leaf in params.items()} == {
        path: leaf.shape for path, leaf in flat(param_shapes(objective)).items()
    }
    for path, leaf in params.items():
        if path.endswith("bias"):
            assert not leaf.any(), path
        elif path.endswith("scale"):
            assert np.all(leaf == 1), path
        else:
            assert np.abs(leaf).max() <= 0.04, path
            assert leaf.std() == pytest.approx(0.0176, rel=5 / np.sqrt(2 * leaf.size)), path


def test_a_parameter_depends_on_the_seed_and_its_path_alone():
    deep, shallow = (flat(init_params(mlm.Config().build(replace(TINY, layers=n)), seed=3)) for n in (2, 1))
    for path, leaf in shallow.items():
        np.testing.assert_array_equal(leaf, deep[path])
    other = flat(init_params(mlm.Config().build(TINY), seed=4))
    table = "encoder/embed/tokens/table"
    assert abs(np.corrcoef(other[table].ravel(), deep[table].ravel())[0, 1]) < 5 / np.sqrt(deep[table].size)


def test_the_state_is_that_of_the_parameters():
    objective, update = mlm.Config().build(TINY), Optimizer().build(10)
    fresh, params = init_state(objective, update, seed=1, mesh=ONE), init_params(objective, seed=1)
    jax.tree.map(np.testing.assert_array_equal, fresh.params, params)
    assert int(fresh.step) == 0 and not any(np.any(leaf) for leaf in jax.tree.leaves(fresh.opt_state))
    keys = [np.asarray(init_state(objective, update, seed=seed, mesh=ONE).key) for seed in range(3)]
    assert len({tuple(key) for key in keys}) == 3


def test_what_is_trained_is_taken_and_not_drawn(monkeypatch):
    objective, update = mlm.Config().build(TINY), Optimizer().build(10)
    plain = init_state(objective, update, seed=1, mesh=ONE)
    trained = {"encoder": jax.tree.map(lambda x: x + 1, plain.params["encoder"])}
    drawn = []
    monkeypatch.setattr(state, "_drawn", lambda path, *rest, draw=state._drawn: drawn.append(path) or draw(path, *rest))
    tuned = init_state(objective, update, seed=1, mesh=ONE, trained=trained)
    expected = {**plain.params, **trained}
    jax.tree.map(np.testing.assert_array_equal, tuned.params, expected)
    assert drawn and not [path for path in drawn if path.startswith("encoder/")]


def test_a_model_is_traced_once_for_its_first_state_however_it_is_computed():
    objective, update = mlm.Config().build(replace(TINY, mlp_width=40)), Optimizer().build(7)
    before = _traced.cache_info().misses
    init_state(objective, update, seed=1, mesh=ONE)
    make_train_step(objective.using(Compute(remat="blocks", mesh=ONE)), update, ONE)
    assert _traced.cache_info().misses == before + 1


class Foreign(Objective):
    """With a parameter as others make them."""

    @nn.compact
    def __call__(self, batch, *, train):
        return self.param("strange", nn.initializers.zeros, (3,))


def test_a_parameter_that_only_a_program_can_draw_is_named():
    with pytest.raises(ConfigError, match=r"'strange' \(3,\) .* bertjax\.nn\.params\.Module"):
        init_params(Foreign(TINY.build(), TINY), seed=0)
