"""Update rules by hand and against optax."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bertjax.errors import ConfigError
from bertjax.train.optim import (
    Optimizer,
    decay_mask,
    decayed,
    depth_below_head,
    scale_by_adam,
    scale_by_depth,
)

GOLDEN = Path(__file__).parent.parent / "golden" / "bert_parameter_names.txt"


def tree(seed, scale=1.0):
    """A little of everything: a table, a kernel, a bias, a LayerNorm."""
    rng = np.random.default_rng(seed)

    def array(*shape):
        return jnp.asarray(rng.normal(0, scale, shape), jnp.float32)

    return {
        "embed": {"tokens": {"table": array(6, 4)}, "norm": {"scale": array(4), "bias": array(4)}},
        "mlp": {"in": {"kernel": array(4, 8), "bias": array(8)}},
    }


def run(update, steps=5, scale=1.0):
    """Parameters after each of a few steps on fixed gradients."""
    params, history = tree(0), []
    state = update.init(params)
    for step in range(steps):
        updates, state = update.update(tree(step + 1, scale), state, params)
        params = optax.apply_updates(params, updates)
        history.append(params)
    return history


def assert_close(got, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, expected)


def by_hand(config, steps, total):
    """The original AdamWeightDecayOptimizer in float64, gradients clipped before."""
    params = {name: np.float64(x) for name, x in flat(tree(0)).items()}
    m, v = ({name: np.zeros_like(x) for name, x in params.items()} for _ in range(2))
    for step in range(steps):
        grads = {name: np.float64(x) for name, x in flat(tree(step + 1)).items()}
        norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
        rate = float(config.schedule(total)(step))
        for name, g in grads.items():
            g = g * min(1.0, config.clip_norm / norm)
            m[name] = 0.9 * m[name] + 0.1 * g
            v[name] = 0.999 * v[name] + 0.001 * g**2
            update = m[name] / (np.sqrt(v[name]) + 1e-6)
            if name in ("embed/tokens/table", "mlp/in/kernel"):
                update = update + 0.01 * params[name]
            params[name] = params[name] - rate * update
    return params


def flat(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {"/".join(key.key for key in path): x for path, x in leaves}


def test_bert_adam_by_hand():
    config = Optimizer(peak_lr=0.1, warmup=2)
    assert_close(flat(run(config.build(8))[-1]), by_hand(config, 5, 8))


def test_first_step_is_3_2_times_the_rate():
    update = scale_by_adam(0.9, 0.999, 1e-6, corrected=False)
    gradient = {"x": jnp.array([1.0, -20.0, 300.0])}
    step, _ = update.update(gradient, update.init(gradient))
    np.testing.assert_allclose(step["x"], np.array([1, -1, 1]) * 0.1 / np.sqrt(0.001), rtol=1e-4)
    np.testing.assert_allclose(np.abs(step["x"]), 3.16, rtol=1e-3)


def test_epsilon_stands_outside_the_root():
    update = scale_by_adam(0.0, 0.0, 1e-3, corrected=False)
    gradient = {"x": jnp.array([1e-3])}
    np.testing.assert_allclose(update.update(gradient, update.init(gradient))[0]["x"], 0.5, rtol=1e-5)


def test_decay_is_added_before_the_rate_and_not_to_norms_and_biases():
    rate, decay = 0.1, 0.5
    config = Optimizer(peak_lr=rate, warmup=0, weight_decay=decay)
    with_decay, without = (
        run(config.build(10**9), 1)[0],
        run(Optimizer(peak_lr=rate, warmup=0, weight_decay=0).build(10**9), 1)[0],
    )
    difference = jax.tree.map(lambda a, b: a - b, with_decay, without)
    mask = decay_mask(tree(0))
    assert_close(difference, jax.tree.map(lambda p, on: -rate * decay * p * on, tree(0), mask))
    assert flat(mask) == {
        "embed/tokens/table": True,
        "embed/norm/scale": False,
        "embed/norm/bias": False,
        "mlp/in/kernel": True,
        "mlp/in/bias": False,
    }


def test_of_a_whole_model_tables_and_kernels_decay():
    names = [line.split()[0] for line in GOLDEN.read_text().splitlines()]
    assert {n.rsplit("/", 1)[1] for n in names if decayed(n)} == {"table", "kernel"}
    assert {n.rsplit("/", 1)[1] for n in names if not decayed(n)} == {"scale", "bias"}


@pytest.mark.parametrize(("warmup", "steps"), [(4, 4), (0.2, 4), (0, 0), (0.01, 0), (1, 1)])
def test_schedule(warmup, steps):
    rate = Optimizer(peak_lr=2.0, warmup=warmup).schedule(20)
    expected = [2.0 * (s / steps if s < steps else 1 - s / 20) for s in range(21)]
    np.testing.assert_allclose([float(rate(s)) for s in range(21)], expected, rtol=1e-6, atol=1e-7)
    assert float(rate(30)) == 0.0


def test_the_rate_drops_a_little_where_the_warm_up_ends():
    # The decay counts from step 0 (optimization.py): at step 10 of 100 it is 0.9, not the peak.
    rate = Optimizer(peak_lr=1.0, warmup=10).schedule(100)
    assert float(rate(9)) == pytest.approx(0.9) and float(rate(10)) == pytest.approx(0.9)
    assert max(float(rate(s)) for s in range(101)) == pytest.approx(0.9)


@pytest.mark.parametrize(("norm", "factor"), [(1.0, None), (1e9, 1.0), (0.0, 1.0)])
def test_clip(norm, factor):
    # b1 = 0: the first moment is the gradient as it arrives behind the clip.
    update = Optimizer(b1=0.0, clip_norm=norm).build(10)
    _, state = update.update(tree(1), update.init(tree(0)), tree(0))
    factor = factor or 1.0 / float(optax.tree.norm(tree(1)))
    assert_close(state[1].mu, jax.tree.map(lambda g: g * factor, tree(1)))


def test_a_clip_takes_the_norm_that_is_known():
    update = Optimizer(b1=0.0).build(10, frozen=("mlp",))
    state, norm = update.init(tree(0)), optax.tree.norm(tree(1))

    def moments(**known):
        return update.update(tree(1), state, tree(0), **known)[1].inner_state[1].mu

    assert_close(moments(norm=2 * norm), jax.tree.map(lambda g: g / 2, moments(norm=norm)))
    rest = jnp.sqrt(sum(jnp.sum(jnp.square(g)) for g in jax.tree.leaves(moments(norm=1.0))))
    assert_close(moments(), moments(norm=rest))


def test_adamw_is_that_of_optax():
    config = Optimizer(kind="adamw", peak_lr=0.1, warmup=2)
    reference = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(config.schedule(8), b1=0.9, b2=0.999, eps=1e-6, weight_decay=0.01, mask=decay_mask),
    )
    jax.tree.map(np.testing.assert_array_equal, run(config.build(8)), run(reference))


def test_lamb_trusts_only_what_decays():
    rate, decay = 0.1, 0.3
    options = {"peak_lr": rate, "warmup": 0.0, "weight_decay": decay, "clip_norm": 0.0}
    before, after = flat(tree(0)), flat(run(Optimizer(kind="lamb", **options).build(10**9), 1)[0])
    adamw = flat(run(Optimizer(kind="adamw", **options).build(10**9), 1)[0])
    for name, x in before.items():
        update = np.float64(x - adamw[name]) / rate
        trust = np.linalg.norm(x) / np.linalg.norm(update) if decayed(name) else 1.0
        np.testing.assert_allclose(after[name], x - rate * trust * update, rtol=1e-4, atol=1e-5)
    reference = flat(run(optax.lamb(rate, b1=0.9, b2=0.999, eps=1e-6, weight_decay=decay, mask=decay_mask), 1)[0])
    for name in filter(decayed, before):
        np.testing.assert_allclose(after[name], reference[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "adamm"}, "optimizer.kind='adamm'; did you mean 'adamw'?"),
        ({"peak_lr": 0.0}, "optimizer.peak_lr=0.0 and epsilon=1e-06 must be above 0"),
        ({"epsilon": -1.0}, "must be above 0"),
        ({"b2": 1.0}, "optimizer.b1=0.9 and b2=1.0 must lie in"),
        ({"b1": -0.1}, "must lie in"),
        ({"warmup": -1.0}, "must not be negative"),
        ({"clip_norm": -1.0}, "must not be negative"),
        ({"weight_decay": -1.0}, "must not be negative"),
    ],
)
def test_config_errors(options, message):
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        Optimizer(**options)


def test_rates_go_down_with_the_layers_as_in_electra():
    names = ("classify/kernel", "pooler/bias", "encoder/layer_1/mlp/in/bias", "encoder/layer_0/attn/norm/scale")
    names += ("encoder/embed/tokens/table",)
    assert [depth_below_head(name, 2) for name in names] == [0, 1, 2, 3, 4]
    params = {}
    for name in names:
        at = params
        *parents, last = name.split("/")
        for parent in parents:
            at = at.setdefault(parent, {})
        at[last] = jnp.ones(2)
    scaled, _ = scale_by_depth(0.5).update(params, optax.EmptyState(), params)
    assert [flat(scaled)[name][0].item() for name in names] == [1, 0.5, 0.25, 0.125, 0.0625]


def test_layer_decay_scales_the_whole_update_decay_too():
    params = {"encoder": {"layer_0": {"kernel": jnp.ones(3)}}, "classify": {"kernel": jnp.ones(3)}}
    gradients = jax.tree.map(lambda x: 0.1 * x, params)
    moved = {}
    for decay in (1.0, 0.5):
        update = Optimizer(kind="adamw", peak_lr=1.0, warmup=0, weight_decay=0.5, layer_decay=decay).build(10**9)
        moved[decay] = update.update(gradients, update.init(params), params)[0]
    np.testing.assert_allclose(moved[0.5]["classify"]["kernel"], moved[1.0]["classify"]["kernel"])
    np.testing.assert_allclose(
        moved[0.5]["encoder"]["layer_0"]["kernel"], 0.25 * moved[1.0]["encoder"]["layer_0"]["kernel"], rtol=1e-6
    )
    for wrong in (0.0, 1.5):
        with pytest.raises(ConfigError, match=f"layer_decay={wrong}"):
            Optimizer(layer_decay=wrong)


@pytest.mark.parametrize("kind", ["bert-adam", "adamw", "lamb"])
def test_a_schedule_that_is_given_takes_the_place_of_its_own(kind):
    own, other = (Optimizer(kind=kind, peak_lr=peak, warmup=warmup) for peak, warmup in ((9.0, 0), (0.1, 2)))
    numbers = jnp.asarray(other.schedule(8).numbers)
    given = run(own.build(3)._replace(update=partial(own.build(3).update, schedule=numbers)))
    jax.tree.map(np.testing.assert_array_equal, given, run(other.build(8)))
