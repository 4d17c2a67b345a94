"""BERT: names, sizes and costs as published; its arithmetic against a second implementation."""

import re
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from helpers import DROPOUT, TINY, apply, init, make_batch

from bertjax.errors import ConfigError
from bertjax.models import bert
from bertjax.objectives import mlm
from bertjax.train.mesh import path_of

BATCH = make_batch(rows=4)


def pretraining(config):
    """Shapes of the parameters of a pretraining model."""
    objective = mlm.Config().build(config)
    return jax.eval_shape(partial(objective.init, train=False), jax.random.key(0), BATCH)["params"]


def count(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


@pytest.fixture(scope="module")
def params():
    return init(mlm.Config().build(TINY), BATCH, train=False)["params"]


def encode(params, batch, config=TINY):
    return apply(config.build(), {"params": params["encoder"]}, batch, train=False)


def test_parameter_names_are_frozen(golden):
    # They are the format of checkpoints and exports. A change needs a way to read the old ones.
    leaves = jax.tree_util.tree_leaves_with_path(pretraining(replace(TINY, layers=1)))
    text = "".join(f"{path_of(path)} {list(x.shape)}\n" for path, x in leaves)
    assert text == golden("bert_parameter_names.txt", text)


@pytest.mark.parametrize(
    ("preset", "published"),
    [
        ("tiny", 4_385_920),
        ("mini", 11_170_560),
        ("small", 28_763_648),
        ("medium", 41_373_184),
        ("base", 109_482_240),
        ("large", 335_141_888),
    ],
)
def test_presets_have_the_published_sizes(preset, published):
    params = pretraining(bert.PRESETS[preset])
    assert count(params["encoder"]) + count(params["pooler"]) == published


def test_every_preset_is_counted_and_has_heads_of_64():
    assert set(bert.PRESETS) == {"tiny", "mini", "small", "medium", "base", "large"}
    for config in bert.PRESETS.values():
        assert (config.width // config.heads, config.mlp_width // config.width) == (64, 4)


def test_pretraining_size_of_base():
    assert count(pretraining(bert.Config())) == 110_106_428


@pytest.mark.parametrize(
    ("preset", "length", "megaflops"),
    [
        ("base", 128, (545, 553, 668)),
        ("base", 512, (588, 595, 710)),
        ("large", 128, (1879, 1889, 2044)),
        ("large", 512, (1992, 2002, 2157)),
        ("small", 128, (93, 98, 174)),
        ("mini", 128, (27.5, 29.9, 67.7)),
        ("mini", 512, (32.3, 34.6, 72.4)),
        ("tiny", 128, (6.3, 7.5, 26.3)),
    ],
)
def test_flops(preset, length, megaflops):
    got = [bert.PRESETS[preset].flops_per_token(length, share, 1.0) / 1e6 for share in (0.15, 0.2, 1.0)]
    np.testing.assert_allclose(got, megaflops, rtol=0.01)


def test_flops_of_a_last_layer_of_which_a_sixth_is_read():
    """Keys and values are of all tokens; queries, their products, the output and the feed-forward of the sixth."""
    width, length = 768, 128
    rest = 2 * 2 * width**2 + 4 * width * 3_072 + 4 * length * width
    whole, part = (bert.Config().flops_per_token(length, 0.15, share) for share in (1.0, 1 / 6))
    assert whole - part == pytest.approx(3 * 5 / 6 * rest)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 100, "heads": 12}, "model.width=100 is not a multiple of model.heads=12; nearest widths: 96, 108"),
        ({"width": 5, "heads": 12}, "nearest widths: 12"),
        ({"activation": "glu"}, "model.activation='glu'; did you mean 'gelu'?"),
        ({"activation": "xyz"}, "model.activation='xyz'; choose from: gelu, gelu_tanh, relu"),
        ({"layers": 0}, "model.layers=0 must be at least 1"),
        ({"vocab_size": -1}, "model.vocab_size=-1 must be at least 1"),
        ({"dropout": 1.0}, r"model.dropout=1.0 is not a probability in [0, 1)"),
        ({"attention_dropout": -0.1}, "model.attention_dropout=-0.1 is not a probability"),
    ],
)
def test_config_errors(change, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        replace(TINY, **change)


def test_against_a_second_implementation(params):
    # Two sequences packed in the last row, with types and positions of their own.
    batch = {name: x.copy() for name, x in BATCH.items()}
    batch["sequence"][3, :12] = [1] * 5 + [2] * 7
    batch["positions"][3, :12] = [*range(5), *range(7)]
    batch["tokens"][3, :12] = np.arange(20, 32)
    encoded = encode(params, batch)
    wide = jax.tree.map(np.float64, params)
    for row in range(4):
        expected = reference.encode(wide, batch, row)
        for got, layer in zip(encoded.layers, expected, strict=True):
            np.testing.assert_allclose(got[row], layer, rtol=1e-5, atol=1e-5)


def test_hidden_states_are_those_after_the_embeddings_and_after_each_layer(params):
    encoded = encode(params, BATCH)
    assert len(encoded.layers) == TINY.layers + 1
    np.testing.assert_array_equal(encoded.hidden, encoded.layers[-1])
    fewer = encode(params, BATCH, replace(TINY, layers=1))
    np.testing.assert_allclose(encoded.layers[0], fewer.layers[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(encoded.layers[1], fewer.hidden, rtol=1e-5, atol=1e-5)


def test_padding_does_not_matter(params):
    longer = {n: np.pad(x, ((0, 0), (0, 7))) if x.shape == (4, 16) else x for n, x in BATCH.items()}
    real = BATCH["sequence"] > 0
    short, long = encode(params, BATCH).hidden, encode(params, longer).hidden[:, :16]
    np.testing.assert_allclose(np.asarray(long)[real], np.asarray(short)[real], rtol=1e-5, atol=1e-5)


def test_dropout_only_in_training(params):
    variables = {"params": params["encoder"]}
    off = encode(params, BATCH).hidden
    np.testing.assert_allclose(encode(params, BATCH, DROPOUT).hidden, off, rtol=1e-6)
    keys = [{"dropout": jax.random.key(i)} for i in range(2)]
    on = [apply(DROPOUT.build(), variables, BATCH, train=True, rngs=rngs).hidden for rngs in keys]
    assert not np.allclose(on[0], off) and not np.allclose(on[0], on[1])


def test_bfloat16_activations_with_float32_parameters(params):
    objective = {dtype: mlm.Config().build(replace(TINY, dtype=dtype)) for dtype in ("float32", "bfloat16")}
    shapes = pretraining(replace(TINY, dtype="bfloat16"))
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(shapes))
    assert encode(params, BATCH, replace(TINY, dtype="bfloat16")).hidden.dtype == jnp.bfloat16
    wide, narrow = (apply(objective[d], {"params": params}, BATCH, train=False) for d in objective)
    for name in ("mlm_loss", "nsp_loss"):
        assert narrow[name][0].dtype == jnp.float32
        assert float(narrow[name][0]) == pytest.approx(float(wide[name][0]), rel=0.02)
