"""Fine-tuning heads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from helpers import DROPOUT, ONE, TINY, apply, init, make_batch, parts

from bertjax.errors import ConfigError
from bertjax.objectives import supervised
from bertjax.train.mesh import MeshConfig
from bertjax.train.state import init_params, param_shapes

NAMES = ("tokens", "types", "sequence", "positions", "first_tokens")
BATCH = {name: x for name, x in make_batch(rows=4).items() if name in NAMES}
WEIGHTS = np.array([1, 1, 0, 1], np.float32)


def build(classes, dropout=0.0, head="classify", batch=None):
    objective = supervised.Config(classes, dropout, head).build(TINY)
    return objective, init(objective, batch or task(classes), train=False)["params"]


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


def hidden(params, batch=BATCH):
    """f[B,L,D] in float64."""
    wide = jax.tree.map(np.float64, params)
    return np.stack([reference.encode(wide, batch, row)[-1] for row in range(len(batch["tokens"]))])


def test_span():
    batch = {**BATCH, "spans": np.array([[1, 3], [0, 0], [2, 2], [4, 5]], np.int32), "weights": WEIGHTS}
    objective, params = build(0, head="span", batch=batch)
    assert set(params) == {"encoder", "span"}
    expected = reference.dense(hidden(params), params["span"])
    np.testing.assert_allclose(apply(objective, {"params": params}, BATCH, method="logits"), expected, atol=1e-5)
    losses = []
    for row, (real, ends) in enumerate(zip(BATCH["sequence"], batch["spans"], strict=True)):
        chances = reference.softmax(expected[row, : real.sum()].T)  # padding is no answer
        losses.append(-np.mean([np.log(chances[end, place]) for end, place in enumerate(ends)]))
    metrics = apply(objective, {"params": params}, batch, train=False)
    np.testing.assert_allclose(metrics["task_loss"], (losses @ WEIGHTS, 3), rtol=1e-5)
    assert float(objective.loss_weights(batch)["task_loss"]) == 3


def test_tag():
    tags = np.where(np.arange(16) % 3 == 1, np.arange(16) % 4, -1)[None].repeat(4, 0).astype(np.int32)
    batch = {**BATCH, "tags": tags, "weights": WEIGHTS}
    objective, params = build(4, head="tag", batch=batch)
    assert set(params) == {"encoder", "tag"} and params["tag"]["kernel"].shape == (32, 4)
    expected = reference.dense(hidden(params), params["tag"])
    real = BATCH["sequence"].astype(bool)
    got = apply(objective, {"params": params}, BATCH, method="logits")
    np.testing.assert_allclose(got[real], expected[real], atol=1e-5)
    counted = (tags >= 0) * WEIGHTS[:, None]
    loss = -np.log(np.take_along_axis(reference.softmax(expected), np.maximum(tags, 0)[..., None], 2))[..., 0]
    metrics = apply(objective, {"params": params}, batch, train=False)
    np.testing.assert_allclose(metrics["task_loss"], ((loss * counted).sum(), 15), rtol=1e-5)
    assert float(objective.loss_weights(batch)["task_loss"]) == 15


def test_choose():
    flat = {name: x for name, x in make_batch(1, rows=8).items() if name in NAMES}
    flat["sequence"][3] = 0  # the fourth choice of the first row is none
    batch = {name: x.reshape(2, 4, -1) for name, x in flat.items()}
    batch |= {"labels": np.array([2, 1], np.int32), "weights": np.array([1, 1], np.float32)}
    objective, params = build(0, head="choose", batch=batch)
    assert set(params) == {"encoder", "pooler", "choose"}
    pooled = np.tanh(reference.dense(hidden(params, flat)[:, 0], params["pooler"]))
    expected = reference.dense(pooled, params["choose"]).reshape(2, 4)
    got = np.asarray(apply(objective, {"params": params}, batch, method="logits"))
    there = np.arange(8).reshape(2, 4) != 3
    np.testing.assert_allclose(got[there], expected[there], atol=1e-5)
    assert got[0, 3] == np.finfo(np.float32).min
    loss = -np.log([reference.softmax(expected[0, :3])[2], reference.softmax(expected[1])[1]])
    metrics = apply(objective, {"params": params}, batch, train=False)
    np.testing.assert_allclose(metrics["task_loss"], (loss.sum(), 2), rtol=1e-5)


@pytest.mark.parametrize("head", ["classify", "span", "tag", "choose"])
def test_heads_start_from_the_smallest_batch_and_give_hidden_states(head):
    objective = supervised.Config(3, 0.1, head).build(TINY)
    params = param_shapes(objective)
    encoded, pooled = jax.eval_shape(
        lambda p, batch: objective.apply({"params": p}, batch, method="encode"), params, BATCH
    )
    assert encoded.hidden.shape == (4, 16, 32)
    assert (pooled is None) == (head in ("span", "tag"))


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


@pytest.mark.parametrize("head", ["classify", "span", "tag", "choose"])
def test_every_head_has_dropout_in_training_only(head):
    batch = {name: x[:, None] for name, x in BATCH.items()} if head == "choose" else BATCH
    objective = supervised.Config(3, 0.5, head).build(TINY)
    params = jax.device_put(init_params(objective, seed=0))
    batch = jax.tree.map(jnp.asarray, batch)

    def logits(**how):
        return np.asarray(objective.apply({"params": params}, batch, method="logits", **how))

    off = logits(train=False)
    on, again = (logits(train=True, rngs={"dropout": jax.random.key(n)}) for n in (1, 2))
    assert off.shape == on.shape and np.abs(off - on).max() > 1e-4 and np.abs(on - again).max() > 1e-4


def batch_of(head):
    """Four rows with what is right; the last two have less to say than the first two."""
    rng = np.random.default_rng(0)
    if head == "choose":
        flat = {name: x for name, x in make_batch(2, rows=12).items() if name in NAMES}
        batch = {name: x.reshape(4, 3, -1) for name, x in flat.items()} | {"labels": rng.integers(0, 3, 4)}
    elif head == "span":
        batch = BATCH | {"spans": rng.integers(0, 5, (4, 2))}
    else:
        batch = BATCH | {"tags": np.where(rng.random((4, 16)) < [[0.9], [0.9], [0.2], [0.2]], 1, -1)}
    return {name: x.astype(np.int32) for name, x in batch.items()} | {"weights": WEIGHTS}


@pytest.mark.parametrize("head", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("span", "tag")), "choose"])
def test_losses_depend_neither_on_the_mesh_nor_on_micro_batches(head):
    losses = []
    for mesh, micro_batches in ((ONE, 1), (MeshConfig(fsdp=2, tensor=2, data=1), 2), (MeshConfig(2), 2)):
        run = parts(DROPOUT, mesh, objective=supervised.Config(3, 0.1, head), micro_batches=micro_batches)
        _, metrics = run.train([batch_of(head)] * 3)
        losses.append([step["task_loss"][0] / step["task_loss"][1] for step in metrics])
    np.testing.assert_allclose(losses, [losses[0]] * 3, rtol=1e-5)


def test_starts_from_any_pretrained_encoder():
    _, params = build(2)
    assert set(params) == {"encoder", "pooler", "classify"}


@pytest.mark.parametrize("classes", [1, -1])
def test_config_errors(classes):
    with pytest.raises(ConfigError, match=f"objective.classes={classes}: at least 2 labels, or 0 for regression"):
        supervised.Config(classes=classes)
