"""Fine-tuning heads."""

import jax
import numpy as np
import pytest
import reference
from helpers import TINY, apply, init, make_batch

from bertjax.errors import ConfigError
from bertjax.objectives import supervised

NAMES = ("tokens", "types", "sequence", "positions", "first_tokens")
BATCH = {name: x for name, x in make_batch(rows=4).items() if name in NAMES}
WEIGHTS = np.array([1, 1, 0, 1], np.float32)


def build(classes, dropout=0.0):
    objective = supervised.Config(classes, dropout).build(TINY)
    return objective, init(objective, task(classes), train=False)["params"]


def task(classes):
    labels = np.array([0, 2, 1, 1], np.int32) if classes else np.array([0.5, 2.0, 9.0, -1.0], np.float32)
    return {**BATCH, "labels": labels, "weights": WEIGHTS}


def logits(params):
    """f[B,C] in float64."""
    wide = jax.tree.map(np.float64, params)
    first = np.stack([reference.encode(wide, BATCH, row)[-1][0] for row in range(4)])
    return reference.dense(np.tanh(reference.dense(first, wide["pooler"])), wide["classify"])


def test_classification():
    objective, params = build(3)
    metrics = apply(objective, {"params": params}, task(3), train=False)
    expected, labels = logits(params), task(3)["labels"]
    np.testing.assert_allclose(apply(objective, {"params": params}, BATCH, method="logits"), expected, atol=1e-5)
    loss = -np.log(reference.softmax(expected)[np.arange(4), labels])
    right = (expected.argmax(-1) == labels) @ WEIGHTS
    np.testing.assert_allclose(metrics["task_loss"], (loss @ WEIGHTS, 3), rtol=1e-5)
    assert tuple(map(float, metrics["task_accuracy"])) == (right, 3)


def test_regression():
    objective, params = build(0)
    assert params["classify"]["kernel"].shape == (32, 1)
    metrics = apply(objective, {"params": params}, task(0), train=False)
    squared = (logits(params)[:, 0] - task(0)["labels"]) ** 2
    assert set(metrics) == {"task_loss"}
    np.testing.assert_allclose(metrics["task_loss"], (squared @ WEIGHTS, 3), rtol=1e-5)


def test_loss_weights():
    objective, _ = build(3)
    assert {name: float(w) for name, w in objective.loss_weights(task(3)).items()} == {"task_loss": 3.0}


def test_dropout_on_the_pooled_output_in_training_only():
    objective, params = build(3, dropout=0.5)  # the encoder has none
    off = logits(params)
    predicted = apply(objective, {"params": params}, BATCH, method="logits")
    np.testing.assert_allclose(predicted, off, atol=1e-5)
    keys = jax.random.split(jax.random.key(0), 400)

    def draw(key, batch):
        return objective.apply({"params": params}, batch, train=True, rngs={"dropout": key}, method="logits")

    on = np.asarray(jax.jit(jax.vmap(draw, (0, None)))(keys, BATCH), np.float64)
    assert (on.std(0) > 0.1).all()
    np.testing.assert_allclose(on.mean(0), off, atol=5 * on.std(0).max() / np.sqrt(400))


def test_starts_from_any_pretrained_encoder():
    _, params = build(2)
    assert set(params) == {"encoder", "pooler", "classify"}


@pytest.mark.parametrize("classes", [1, -1])
def test_config_errors(classes):
    with pytest.raises(ConfigError, match=f"objective.classes={classes}: at least 2 labels, or 0 for regression"):
        supervised.Config(classes=classes)
