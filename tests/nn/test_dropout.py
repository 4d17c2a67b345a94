"""The counter hash must be as good as random bits, and the same on every mesh."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import DROPOUT, make_batch, random_params
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from bertjax.keys import HASHED, counted
from bertjax.nn.dropout import Dropout
from bertjax.nn.dropout import dropped as masked
from bertjax.train.mesh import MeshConfig, make_mesh

KEY = jax.random.key(3, impl=HASHED)
SEEDS = jax.random.key_data(KEY)
SHAPE = (64, 32, 128)


def dropped(rate, x, key=KEY):
    return Dropout(rate).apply({}, x, train=True, rngs={"dropout": key})


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_rate(rate):
    zeros = np.mean(np.asarray(dropped(rate, jnp.ones(SHAPE))) == 0)
    sigma = np.sqrt(rate * (1 - rate) / np.prod(SHAPE))
    assert abs(zeros - rate) < 4 * sigma


@pytest.mark.parametrize("shape", [(1 << 16,), (256, 256), SHAPE, (8, 4, 64, 64), (1, 1, 1, 1 << 16), (1 << 16, 1)])
def test_every_bit_is_fair(shape):
    bits = np.asarray(counted(SEEDS, shape)).reshape(-1)
    ones = [np.mean((bits >> b) & 1) for b in range(32)]
    np.testing.assert_allclose(ones, 0.5, atol=5 * 0.5 / np.sqrt(bits.size))


def correlation(a, b):
    return abs(np.corrcoef(np.asarray(a, np.float64).ravel(), np.asarray(b, np.float64).ravel())[0, 1])


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("shift", [1, 2, 16])
def test_neighbours_are_independent(axis, shift):
    bits = np.asarray(counted(SEEDS, SHAPE))
    assert correlation(bits, np.roll(bits, shift, axis)) < 5 / np.sqrt(bits.size)


def test_keys_are_independent():
    # Steps differ by fold_in: the masks of consecutive counters have nothing in common.
    bits = [np.asarray(counted(jax.random.key_data(jax.random.fold_in(KEY, step)), SHAPE)) for step in range(4)]
    for i in range(4):
        for j in range(i):
            assert correlation(bits[i], bits[j]) < 5 / np.sqrt(bits[0].size)


def test_no_pattern_in_counts_per_row_and_column():
    # With independent elements the dropped ones of a row are binomial: mean and variance both fit.
    kept = np.asarray(dropped(0.1, jnp.ones((512, 1024)))) != 0
    for axis in (0, 1):
        count = kept.sum(axis)
        expected = 0.9 * 0.1 * kept.shape[axis]
        assert abs(count.var() / expected - 1) < 5 * np.sqrt(2 / len(count))


def test_sites_of_a_model_differ():
    class Two(nn.Module):
        def setup(self):
            self.first, self.second = Dropout(0.5), Dropout(0.5)

        def __call__(self, x):
            return self.first(x, train=True), self.second(x, train=True)

    first, second = Two().apply({}, jnp.ones(SHAPE), rngs={"dropout": KEY})
    assert correlation(first, second) < 5 / np.sqrt(first.size)


@pytest.mark.parametrize("spec", [P("data"), P(("data", "fsdp"), "tensor"), P(None, None, ("data", "fsdp", "tensor"))])
def test_same_bits_however_sharded(spec):
    mesh = make_mesh(MeshConfig(2, 2, 2))
    sharded = jax.jit(lambda seeds: counted(seeds, SHAPE), out_shardings=NamedSharding(mesh, spec))(SEEDS)
    assert len(sharded.sharding.device_set) == 8
    np.testing.assert_array_equal(sharded, counted(SEEDS, SHAPE))


def test_off():
    x = jnp.arange(8.0).reshape(2, 4)
    np.testing.assert_array_equal(Dropout(0.5).apply({}, x, train=False), x)
    np.testing.assert_array_equal(Dropout(0.0).apply({}, x, train=True), x)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_kept_elements_and_their_gradients_are_scaled(dtype):
    x = jnp.full((32, 64), 3.0, dtype)
    y, pull = jax.vjp(lambda x: dropped(0.25, x), x)
    gradient = np.asarray(pull(jnp.ones_like(y))[0], np.float32)
    y = np.asarray(y, np.float32)
    assert set(np.unique(y)) == {0.0, 4.0}
    np.testing.assert_allclose(gradient, (y > 0) / 0.75, rtol=1e-6 if dtype == jnp.float32 else 2**-8)


def test_expectation_is_kept():
    mean = np.mean([np.asarray(dropped(0.3, jnp.ones(SHAPE), jax.random.fold_in(KEY, i))) for i in range(8)])
    assert abs(mean - 1) < 5 * np.sqrt(0.3 / 0.7 / (8 * np.prod(SHAPE)))


def masks_of_an_encoder(seed, step):
    """(site, layer and all) -> which elements of f[32,1024] are kept there, in a training step of a model."""
    batch = {name: jnp.asarray(value) for name, value in make_batch(rows=32, length=32).items()}
    encoder, found = DROPOUT.build(), {}

    def note(call, arguments, options, context):
        result = call(*arguments, **options)
        if isinstance(context.module, Dropout) and context.method_name == "seeds":
            mask = masked(jnp.ones((32, 1024)), result, context.module.rate) != 0
            found["/".join(context.module.path)] = np.asarray(mask).ravel()
        return result

    key = jax.random.fold_in(jax.random.key(seed, impl=HASHED), step)
    params = random_params(jax.eval_shape(lambda: encoder.init(jax.random.key(0), batch, train=False)))
    with nn.intercept_methods(note):
        encoder.apply(params, batch, train=True, rngs={"dropout": key})
    return {(seed, step, site): mask for site, mask in found.items()}


def test_masks_of_seeds_steps_layers_and_sites_are_independent():
    masks = {}
    for seed in (0, 1):
        for step in (0, 1):
            masks |= masks_of_an_encoder(seed, step)
    assert len(masks) == 2 * 2 * (1 + 3 * DROPOUT.layers)
    kept = np.stack(list(masks.values())).astype(np.float64)
    count, rate = kept.shape[1], 1 - DROPOUT.dropout
    # The keep rate of each: chi-square with a degree of freedom; 25 is five sigma.
    assert (np.square(kept.sum(1) - count * rate) / (count * rate * (1 - rate)) < 25).all()
    # Of each pair the 2 x 2 table of kept and dropped: the phi coefficient squared, times the count, is its chi-square.
    pairs = np.square(np.corrcoef(kept))[np.triu_indices(len(kept), 1)] * count
    assert pairs.max() < 25
    # And all of them together are distributed as they should be: mean 1, variance 2.
    assert abs(pairs.mean() - 1) < 5 * np.sqrt(2 / len(pairs))
