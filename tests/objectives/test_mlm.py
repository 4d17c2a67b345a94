"""Pretraining: losses by a second implementation, weights known beforehand, corruption that can be replayed."""

import pickle
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest
import reference
from helpers import TINY, apply, init, make_batch

from bertjax.data.masking import Masking, Vocab
from bertjax.errors import ConfigError
from bertjax.objectives import mlm

BATCH = make_batch(rows=8)
OBJECTIVE = mlm.Config().build(TINY)


@pytest.fixture(scope="module")
def params():
    return init(OBJECTIVE, BATCH, train=False)["params"]


@pytest.fixture(scope="module")
def compute(params):
    step = jax.jit(lambda batch: OBJECTIVE.apply({"params": params}, batch, train=False))
    return lambda batch: {name: (float(t), float(w)) for name, (t, w) in step(batch).items()}


@pytest.mark.parametrize(("length", "slots"), [(128, 20), (512, 77), (8, 2), (1, 1)])
def test_slots(length, slots):
    assert mlm.Config().masking.slots(length) == slots
    assert mlm.Config().masked_fraction(length) == slots / length


def test_losses(params, compute):
    metrics = compute(BATCH)
    expected = reference.pretraining_loss(jax.tree.map(np.float64, params), BATCH)
    for name, value in zip(OBJECTIVE.loss_terms, expected, strict=True):
        assert metrics[name][0] / metrics[name][1] == pytest.approx(value, rel=1e-5)


def test_loss_weights_are_those_of_the_metrics(compute):
    metrics, weights = compute(BATCH), OBJECTIVE.loss_weights(BATCH)
    assert tuple(weights) == OBJECTIVE.loss_terms
    assert {name: float(w) for name, w in weights.items()} == {name: metrics[name][1] for name in weights}
    assert float(weights["mlm_loss"]) == BATCH["masked_weights"].sum() < BATCH["masked_weights"].size
    assert float(weights["nsp_loss"]) == 8


def test_metrics_add_up_over_parts_of_a_batch(compute):
    whole = compute(BATCH)
    parts = [compute({n: x[rows] for n, x in BATCH.items()}) for rows in (slice(0, 4), slice(4, 8))]
    for name in whole:
        np.testing.assert_allclose(whole[name], np.sum([part[name] for part in parts], axis=0), rtol=1e-5)


def test_unused_slots_count_nothing(compute):
    other = dict(BATCH, masked_targets=np.where(BATCH["masked_weights"] > 0, BATCH["masked_targets"], 77))
    assert compute(other) == compute(BATCH)


def test_accuracy_counts_what_is_right(params, compute):
    logits = apply(OBJECTIVE, {"params": params}, BATCH, method="fill")
    assert logits.shape == (8, 4, 128)
    best = np.asarray(logits).argmax(-1).astype(np.int32)
    used = BATCH["masked_weights"].sum()
    assert compute(dict(BATCH, masked_targets=best))["mlm_accuracy"] == (used, used)
    assert compute(dict(BATCH, masked_targets=(best + 1) % 128))["mlm_accuracy"] == (0, used)


def test_next_sentence_label_1_is_the_second_logit(params):
    """0 is next, 1 is random: a bias towards logit 1 makes label 1 likely."""
    biased = {**params, "nsp": {**params["nsp"], "bias": np.array([-10.0, 10.0], np.float32)}}
    label = {i: dict(BATCH, next_labels=np.full((8, 1), i, np.int32)) for i in (0, 1)}
    metrics = {i: apply(OBJECTIVE, {"params": biased}, batch, train=False) for i, batch in label.items()}
    assert float(metrics[1]["nsp_accuracy"][0]) == 8 and float(metrics[0]["nsp_accuracy"][0]) == 0
    assert float(metrics[1]["nsp_loss"][0]) < 1 < float(metrics[0]["nsp_loss"][0])


def test_each_packed_sequence_has_a_label_of_its_own(params):
    batch = {name: x.copy() for name, x in make_batch(rows=8).items()}
    batch["sequence"][:], batch["sequence"][:, 10:] = 1, 2
    batch["positions"][:] = np.r_[np.arange(10), np.arange(6)]
    batch["first_tokens"] = np.tile(np.array([0, 10], np.int32), (8, 1))
    batch["next_labels"] = np.tile(np.array([0, 1], np.int32), (8, 1))
    batch["next_weights"] = np.tile(np.array([1, 0], np.float32), (8, 1))
    both = apply(OBJECTIVE, {"params": params}, dict(batch, next_weights=np.ones((8, 2), np.float32)), train=False)
    first = apply(OBJECTIVE, {"params": params}, batch, train=False)
    wide = jax.tree.map(np.float64, params)
    for metrics, columns in ((both, [0, 1]), (first, [0])):
        chosen = dict(
            batch, first_tokens=batch["first_tokens"][:, columns], next_labels=batch["next_labels"][:, columns]
        )
        total, weight = metrics["nsp_loss"]
        assert float(total / weight) == pytest.approx(reference.pretraining_loss(wide, chosen)[1], rel=1e-5)
        assert float(weight) == 8 * len(columns)


def test_encode_gives_the_pooled_first_token(params):
    encoded, pooled = apply(OBJECTIVE, {"params": params}, BATCH, method="encode")
    wide = jax.tree.map(np.float64, params)
    expected = np.tanh(reference.dense(np.float64(encoded.hidden[:, 0]), wide["pooler"]))
    np.testing.assert_allclose(pooled, expected, atol=1e-5)


def test_sentence_order_is_the_same_head_under_its_own_name(params, compute):
    sop = mlm.Config(examples="sop").build(TINY)
    assert sop.loss_terms == ("mlm_loss", "sop_loss")
    metrics = apply(sop, {"params": params}, BATCH, train=False)
    assert metrics.keys() == {"mlm_loss", "mlm_accuracy", "sop_loss", "sop_accuracy"}
    assert float(metrics["sop_loss"][0]) == pytest.approx(compute(BATCH)["nsp_loss"][0], rel=1e-6)
    assert {name: float(w) for name, w in sop.loss_weights(BATCH).items()} == {
        name: float(metrics[name][1]) for name in sop.loss_terms
    }


@pytest.mark.parametrize("examples", ["full-sentences", "doc-sentences", "segments"])
def test_masking_alone_has_one_head_and_needs_no_labels(params, compute, examples):
    alone = mlm.Config(examples=examples).build(replace(TINY, type_count=1))
    batch = {name: x for name, x in BATCH.items() if not name.startswith("next_")} | {"types": BATCH["types"] * 0}
    made = jax.eval_shape(partial(alone.init, train=False), jax.random.key(0), batch)["params"]
    assert made.keys() == {"encoder", "mlm"}
    alone = mlm.Config(examples=examples).build(TINY)
    some = {"encoder": params["encoder"], "mlm": params["mlm"]}
    metrics = apply(alone, {"params": some}, batch, train=False)
    assert metrics.keys() == {"mlm_loss", "mlm_accuracy"} and set(alone.loss_weights(batch)) == {"mlm_loss"}
    both = compute({**batch, **{name: x for name, x in BATCH.items() if name.startswith("next_")}})
    assert float(metrics["mlm_loss"][0]) == pytest.approx(both["mlm_loss"][0], rel=1e-6)
    assert apply(alone, {"params": some}, batch, method="encode")[1] is None
    assert apply(alone, {"params": some}, batch, method="fill").shape == (8, 4, 128)


def test_config_errors():
    with pytest.raises(ConfigError, match=r"objective.examples='nps'.*did you mean 'nsp'"):
        mlm.Config(examples="nps")
    with pytest.raises(ConfigError, match=r"model.type_count=1 but objective.examples='sop'"):
        mlm.Config(examples="sop").build(replace(TINY, type_count=1))


def test_corruption_is_picklable_and_a_function_of_its_keys():
    vocab = Vocab(size=128, pad=0, unk=1, cls=2, sep=3, mask=4)
    corrupt = mlm.Config().corruption(vocab, 32)
    tokens = np.r_[2, np.arange(5, 33), 3, 0, 0].astype(np.int32)
    batch = {"tokens": np.stack([tokens] * 2), "sequence": np.stack([(tokens > 0).astype(np.int32)] * 2), "more": 1}
    before = batch["tokens"].copy()
    first, again, other = (
        f(batch, np.array(k, np.uint64), 0.0) for f, k in ((corrupt, [0, 7]), (corrupt, [0, 7]), (corrupt, [7, 5]))
    )
    copied = pickle.loads(pickle.dumps(corrupt))(batch, np.array([0, 7], np.uint64), 0.0)
    np.testing.assert_array_equal(batch["tokens"], before)
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
        np.testing.assert_array_equal(first[name], copied[name])
    assert first["more"] == 1 and first["masked_positions"].shape == (2, mlm.Config().masking.slots(32)) == (2, 5)
    for name in ("tokens", "masked_positions", "masked_targets", "masked_weights"):
        np.testing.assert_array_equal(first[name][1], other[name][0])
    assert not np.array_equal(first["masked_positions"][0], first["masked_positions"][1])
    rows, slots = np.nonzero(first["masked_weights"])
    np.testing.assert_array_equal(
        before[rows, first["masked_positions"][rows, slots]], first["masked_targets"][rows, slots]
    )


def test_corruption_follows_its_config_and_the_training():
    vocab = Vocab(size=128, pad=0, unk=1, cls=2, sep=3, mask=4)
    masking = Masking(rate=(0.5, 0.25), mask_share=1.0, random_share=0.0)
    corrupt = mlm.Config(masking=masking).corruption(vocab, 64)
    tokens = np.r_[2, np.arange(5, 67), 3].astype(np.int32)[None]
    for progress, count in ((0.0, 32), (0.5, 24), (1.0, 16)):
        got = corrupt({"tokens": tokens, "sequence": np.ones_like(tokens)}, np.zeros(1, np.uint64), progress)
        assert got["masked_weights"].shape == (1, 32)
        assert got["masked_weights"].sum() == (got["tokens"] == 4).sum() == count
