"""Losses as (total, weight), by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.nn.losses import classification, regression

LOGITS = jnp.log(jnp.array([[[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]], [[0.2, 0.2, 0.6], [1 / 3, 1 / 3, 1 / 3]]]))
LABELS = jnp.array([[0, 0], [2, 1]])


def test_classification():
    metrics = classification("x", LOGITS, LABELS, jnp.array([[1.0, 2.0], [0.5, 0.0]]))
    total = -np.log(0.5) - 2 * np.log(0.1) - 0.5 * np.log(0.6)
    assert {name: (float(t), float(w)) for name, (t, w) in metrics.items()} == {
        "x_loss": (pytest.approx(total, rel=1e-6), 3.5),
        "x_accuracy": (1.5, 3.5),
    }


def test_large_logits_neither_overflow_nor_lose_the_gradient():
    def loss(logits):
        return classification("x", logits, jnp.array([1]), jnp.ones(1))["x_loss"][0]

    value, gradient = jax.value_and_grad(loss)(jnp.array([[1e4, 0.0]]))
    assert float(value) == pytest.approx(1e4)
    np.testing.assert_allclose(gradient, [[1, -1]])


def test_regression():
    total, weight = regression("x", jnp.array([1.0, 2.0, 9.0]), jnp.array([0.5, 4.0, 0.0]), jnp.array([1.0, 1.0, 0.0]))[
        "x_loss"
    ]
    assert (float(total), float(weight)) == (0.25 + 4.0, 2.0)
