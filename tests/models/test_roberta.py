"""RoBERTa: the published sizes, and pretraining as its paper has it."""

import re

import jax
import numpy as np
import pytest
from helpers import apply, init, make_batch
from hf_directories import ROBERTA_TINY

from bertjax.errors import ConfigError
from bertjax.models import roberta
from bertjax.objectives import features, mlm
from bertjax.train.state import param_shapes

UNUSED = 2  # rows of the published position table that no position has


@pytest.mark.parametrize(("preset", "published"), [("base", 124_645_632), ("large", 355_359_744)])
def test_presets_have_the_published_sizes(preset, published):
    model = roberta.PRESETS[preset]
    shapes = param_shapes(features.Config().build(model))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == published - UNUSED * model.width


def test_it_is_trained_without_a_sentence_objective():
    objective, batch = mlm.Config("full-sentences").build(ROBERTA_TINY), make_batch()
    metrics = apply(objective, init(objective, batch, train=False), batch, train=False)
    assert set(metrics) == {"mlm_loss", "mlm_accuracy"} and np.isfinite(metrics["mlm_loss"][0])
    with pytest.raises(ConfigError, match=re.escape("model.type_count=1")):
        mlm.Config("nsp").build(ROBERTA_TINY)
