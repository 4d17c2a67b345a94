"""Names and layouts: as transformers has them (tests/parity says so), frozen, and undone exactly."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from helpers import TINY
from hf_directories import OBJECTIVES, parameters

from bertjax.hf import names
from bertjax.models import bert, roberta
from bertjax.train.mesh import path_of

FAMILIES = {"bert": bert, "roberta": roberta}
CLASSES = [(family, architecture) for family in FAMILIES.values() for architecture in family.HF_HEADS]


def leaves(architecture, model=TINY):
    tree = parameters(OBJECTIVES[architecture], model)
    return [(path_of(path), np.asarray(leaf)) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


@pytest.mark.parametrize("name", FAMILIES)
def test_names_and_shapes_are_frozen(golden, name):
    lines, family = [], FAMILIES[name]
    for architecture in family.HF_HEADS:
        table = names.head_names(family, architecture)
        for path, leaf in leaves(architecture, replace(TINY, layers=1)):
            lines.append(f"{path} {names.their_name(path, table)} {list(names.their_shape(path, leaf.shape))}\n")
    text = "".join(dict.fromkeys(lines))
    assert text == golden(f"hf_{name}_names.txt", text)


@pytest.mark.parametrize("unused", [0, 2])
@pytest.mark.parametrize("architecture", OBJECTIVES)
def test_every_array_comes_back_bit_for_bit(architecture, unused):
    for path, array in leaves(architecture):
        theirs = names.to_theirs(path, array, unused)
        assert theirs.shape == names.their_shape(path, array.shape, unused)
        np.testing.assert_array_equal(names.to_ours(path, theirs, array.shape), array)


def test_a_linear_is_theirs_transposed_with_its_heads_side_by_side():
    kernel = np.arange(24).reshape(4, 2, 3)  # D=4 inputs, 2 heads of 3
    query = names.to_theirs("encoder/layer_0/attn/query/kernel", kernel)
    np.testing.assert_array_equal(query[4], kernel[:, 1, 1])
    out = names.to_theirs("encoder/layer_0/attn/out/kernel", kernel.reshape(2, 3, 4))
    np.testing.assert_array_equal(out[:, 4], kernel.reshape(2, 3, 4)[1, 1])


@pytest.mark.parametrize(("family", "architecture"), CLASSES)
def test_the_class_follows_from_the_heads(family, architecture):
    heads = {path.split("/")[0] for path, _ in leaves(architecture)} - {"encoder"}
    assert names.architecture_of(family, heads) == architecture


def test_positions_counted_from_two_have_two_rows_more():
    table = np.ones((5, 3))
    theirs = names.to_theirs("encoder/embed/positions/table", table, 2)
    assert theirs.shape == (7, 3) and not theirs[:2].any() and theirs[2:].all()
    assert names.to_theirs("encoder/embed/tokens/table", table, 2).shape == (5, 3)


def test_what_has_no_class():
    assert names.architecture_of(bert, set()) == "BertModel"
    assert names.architecture_of(bert, {"mlm", "classify"}) == ""


def test_a_name_may_be_of_another_class():
    # roberta-base has the pooler of RobertaModel beside the MLM head; old classifiers have it beside their own.
    table = names.head_names(roberta, "RobertaForSequenceClassification")
    assert table["pooler"] == "classifier.dense"
    assert names.is_alternative("roberta.pooler.dense.weight", roberta, table)
    assert not names.is_alternative("classifier.dense.weight", roberta, table)
    assert names.head_names(roberta, "RobertaForMaskedLM")["pooler"] == "roberta.pooler.dense"


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("bert.embeddings.LayerNorm.bias", "encoder"),
        ("bert.encoder.layer.11.output.dense.weight", "encoder"),
        ("bert.pooler.dense.bias", "pooler"),
        ("cls.predictions.bias", "mlm"),
        ("cls.seq_relationship.weight", "nsp"),
        ("classifier.weight", "classify"),
        ("qa.weight", ""),
    ],
)
def test_the_part_of_a_tensor(name, part):
    assert names.part_of(name, names.head_names(bert, "")) == part
