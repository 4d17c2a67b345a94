"""The step: exact accumulation, one compilation, randomness that counts, and learning."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import DROPOUT, KEEP, TINY, losses, make_batch, parts

from bertjax.contracts import Compute
from bertjax.objectives import mlm
from bertjax.train.mesh import MeshConfig, abstract_batch, make_mesh, put_batch
from bertjax.train.optim import Optimizer
from bertjax.train.state import planned_state
from bertjax.train.step import make_eval_step, make_train_step

SMALL = replace(TINY, layers=1)
RANDOM = replace(DROPOUT, layers=1)


@pytest.fixture(scope="module")
def plain():
    return parts(SMALL)


@pytest.fixture(scope="module")
def random():
    return parts(RANDOM, update=KEEP)


def uneven():
    """Four micro-batches with 1 to 4 masked tokens a row."""
    batch = make_batch()
    batch["masked_weights"] = (np.arange(4) <= np.arange(16)[:, None] % 4).astype(np.float32)
    batch["next_weights"] = (np.arange(16)[:, None] % 4 > 0).astype(np.float32)
    return batch


def test_accumulated_gradients_are_exact():
    (whole, total), (pieces, totals) = (parts(SMALL, update=KEEP, micro_batches=k).train([uneven()]) for k in (1, 4))
    counts = uneven()["masked_weights"].sum(1).reshape(4, 4).sum(0)
    assert len(set(counts)) == 4
    norm = float(optax.tree.norm(whole.opt_state))
    assert norm > 0.1
    for a, b in zip(jax.tree.leaves(whole.opt_state), jax.tree.leaves(pieces.opt_state), strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-6 * norm)
    for name in total[0]:
        np.testing.assert_allclose(totals[0][name], total[0][name], rtol=1e-6)


def test_one_compilation_for_numpy_batches(plain):
    state = plain.state
    for seed in range(3):
        state, _ = plain.step(state, put_batch(make_batch(seed), plain.mesh))
    assert plain.step._program._cache_size() == 1
    assert int(state.step) == 3


def test_the_old_state_is_given_up(plain):
    old = plain.state
    new, _ = plain.train([make_batch()], old)
    assert all(x.is_deleted() for x in jax.tree.leaves(old))
    assert not any(x.is_deleted() for x in jax.tree.leaves(new))


def test_metrics(plain):
    _, (metrics,) = plain.train([uneven()])
    assert metrics["mlm_loss"][1] == metrics["mlm_accuracy"][1] == 40
    assert metrics["nsp_loss"][1] == 12
    # Nothing is learned yet: every token of 128 and both labels are about as likely.
    assert metrics["mlm_loss"][0] / 40 == pytest.approx(np.log(128), rel=0.02)
    assert metrics["nsp_loss"][0] / 12 == pytest.approx(np.log(2), rel=0.02)


def test_a_batch_without_labels_of_a_term_learns_from_the_other(random):
    batch = make_batch()
    state, (metrics,) = random.train([{**batch, "next_weights": np.zeros((16, 1), np.float32)}])
    assert metrics["nsp_loss"] == (0, 0) and np.isfinite(metrics["grad_norm"][0]) and metrics["grad_norm"][0] > 0.1
    assert not np.any(state.opt_state["nsp"]["kernel"]) and np.any(state.opt_state["mlm"]["transform"]["kernel"])


def test_norm_of_the_gradient(random):
    state, (metrics,) = random.train([make_batch()])
    squares = sum(float(np.square(np.float64(g)).sum()) for g in jax.tree.leaves(state.opt_state))
    np.testing.assert_allclose(metrics["grad_norm"], (np.sqrt(squares), 1), rtol=1e-5)


def test_dropout_differs_between_steps_and_can_be_replayed(random):
    batches = [make_batch()] * 4  # KEEP does not learn: only the step number differs
    first, again = (losses(random.train(batches)[1]) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert len(set(first)) == 4
    # Any step can be replayed from its number alone.
    state = random.state
    late = type(state)(jnp.asarray(2, jnp.int32), state.params, state.opt_state, state.key)
    np.testing.assert_array_equal(losses(random.train(batches[:2], late)[1]), first[2:])


def test_dropout_differs_between_seeds(random):
    other = random.state
    key = jax.random.key_data(jax.random.key(99))
    other = type(other)(other.step, other.params, other.opt_state, key)
    assert losses(random.train([make_batch()], other)[1]) != losses(random.train([make_batch()])[1])


def test_accumulated_gradients_are_exact_with_dropout(random):
    in_four = parts(RANDOM, update=KEEP, micro_batches=4)
    whole, pieces = (run.train([uneven()])[0].opt_state for run in (random, in_four))
    norm = float(optax.tree.norm(whole))
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(pieces), strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-6 * norm)


def test_a_tiny_model_memorises_a_batch():
    run = parts(SMALL, update=Optimizer(peak_lr=5e-3, warmup=10).build(200))
    _, metrics = run.train([make_batch()] * 150)
    total, weight = metrics[-1]["mlm_accuracy"]
    assert total / weight > 0.95
    total, weight = metrics[-1]["nsp_accuracy"]
    assert total / weight > 0.95


def test_eval_step_has_no_dropout(plain, random):
    batch = put_batch(make_batch(), plain.mesh)
    off, on = (make_eval_step(run.objective)(run.state.params, batch) for run in (plain, random))
    again = make_eval_step(random.objective)(random.state.params, batch)
    for name in off:
        np.testing.assert_array_equal(on[name], again[name])
        np.testing.assert_allclose(on[name], off[name], rtol=1e-5)


def test_one_program_serves_all_schedules(plain):
    """As the optimizer's own does, whose numbers are constants."""
    update, batches = Optimizer(peak_lr=1e-3, warmup=2).build(20), [make_batch(seed) for seed in range(3)]
    schedules = [Optimizer(peak_lr=1e-3, warmup=2).schedule(20), Optimizer(peak_lr=0.5, warmup=1).schedule(4)]
    steps = [make_train_step(plain.objective, update, plain.mesh, schedule=schedule) for schedule in schedules]
    state, batch = planned_state(plain.objective, update, plain.mesh), put_batch(batches[0], plain.mesh)
    assert len({step.lower(state, batch).as_text() for step in steps}) == 1
    own, same, other = (replace(plain, step=step).train(batches)[0].params for step in (plain.step, *steps))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), same, own)
    assert not np.allclose(*(params["nsp"]["kernel"] for params in (other, own)))


@pytest.mark.parametrize("config", [MeshConfig(8), MeshConfig(2, 2, seq=2)], ids=["data", "data fsdp seq"])
def test_kernels_are_part_of_the_step_on_any_mesh(config):
    mesh = make_mesh(config)
    objective = mlm.Config().build(replace(TINY, max_length=256)).using(Compute(attention="splash", mesh=mesh))
    state = planned_state(objective, Optimizer().build(10), mesh)
    batch = abstract_batch(make_batch(length=256), 16, mesh)
    assert make_train_step(objective, Optimizer().build(10), mesh).lower(state, batch).as_text().count("while") >= 3
