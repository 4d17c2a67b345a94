"""A change that should not alter numbers does not: the losses of 20 steps of a tiny model on fixed batches.

Where they are meant to change: `pytest tests/test_golden.py --update-golden`, and say why in the commit.
"""

from dataclasses import replace

import numpy as np
from helpers import DROPOUT, losses, make_batch, parts

from bertjax.train.optim import Optimizer


def test_losses_of_20_steps(golden):
    run = parts(replace(DROPOUT, layers=1), update=Optimizer(peak_lr=2e-3, warmup=5).build(20), micro_batches=2)
    got = losses(run.train(make_batch(seed % 4) for seed in range(20))[1])
    assert got[-1] < got[0] - 0.05
    np.testing.assert_allclose(got, golden("losses_20_steps.json", [round(float(x), 7) for x in got]), rtol=1e-5)
