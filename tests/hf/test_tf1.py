"""A checkpoint that TensorFlow wrote (tf1/make.py), read without it: every number and name, damage of all kinds."""

import re
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest

from bertjax import api
from bertjax.convert import convert
from bertjax.errors import DataError
from bertjax.hf import tf1
from bertjax.hf.read import is_directory
from bertjax.hf.tf1 import Tf1Tensors, prefix_of
from bertjax.saved import open_run
from bertjax.use import Convert

FOLDER = Path(__file__).parent / "tf1"
PREFIX = FOLDER / "bert_model.ckpt"


def value(name, shape):
    return np.random.default_rng(zlib.crc32(name.encode())).normal(0, 0.5, shape).astype(np.float32)


def test_every_tensor_has_its_numbers_under_its_new_name():
    tensors = Tf1Tensors(PREFIX)
    expected = {
        "bert.embeddings.word_embeddings.weight": value("bert/embeddings/word_embeddings", (16, 8)),
        "bert.embeddings.LayerNorm.weight": value("bert/embeddings/LayerNorm/gamma", 8),
        "bert.encoder.layer.1.output.dense.weight": value("bert/encoder/layer_1/output/dense/kernel", (16, 8)).T,
        "bert.encoder.layer.0.attention.self.key.bias": value("bert/encoder/layer_0/attention/self/key/bias", 8),
        "cls.predictions.bias": value("cls/predictions/output_bias", 16),
        "cls.seq_relationship.weight": value("cls/seq_relationship/output_weights", (2, 8)),
    }
    for name, array in expected.items():
        assert tensors.shapes[name] == array.shape
        np.testing.assert_array_equal(tensors.read(name), array)
    assert len(tensors.shapes) == 3 + 2 + 2 * 16 + 2 + 5 + 2  # and none of the optimizer's
    assert not [name for name in tensors.shapes if "adam" in name or "step" in name]


@pytest.mark.parametrize("path", [FOLDER, PREFIX])
def test_a_checkpoint_is_taken_wherever_a_run_is(path):
    assert is_directory(path)
    model = api.load(path)
    assert model.saved.parts == ["encoder", "mlm", "nsp", "pooler"]
    assert model.saved.model.activation == "gelu_tanh"  # as google-research/bert computes its "gelu"
    assert model.tokenizer.vocabulary[5:7] == ["the", "cat"] and model.tokenizer.lowercase
    assert len(model.fill_mask("the [MASK] sat", k=3)) == 3


def test_there_and_back(tmp_path):
    for source, to in ((PREFIX, tmp_path / "run"), (tmp_path / "run", tmp_path / "hf")):
        convert(Convert(source=str(source), to=str(to)))
    assert '"hidden_act": "gelu_new"' in (tmp_path / "hf/config.json").read_text()
    first, again = (api.load(path).embed(["the cat"]) for path in (FOLDER, tmp_path / "hf"))
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("output_weights", "classifier.weight"),
        ("output_bias", "classifier.bias"),
        ("cls/squad/output_weights", "qa_outputs.weight"),
        ("bert/encoder/layer_11/output/LayerNorm/beta", "bert.encoder.layer.11.output.LayerNorm.bias"),
    ],
)
def test_names_of_other_heads(name, theirs):
    assert tf1._name(name) == theirs


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(FOLDER, tmp_path / "copy")


def test_one_of_several_must_be_named(copy):
    shutil.copy(copy / "bert_model.ckpt.index", copy / "other.ckpt-7.index")
    with pytest.raises(DataError, match=r"several checkpoints; give one of them: .*bert_model.ckpt, other.ckpt-7"):
        prefix_of(copy)
    assert prefix_of(copy / "bert_model.ckpt") == copy / "bert_model.ckpt"


def test_data_that_is_missing_or_cut(copy):
    data = copy / "bert_model.ckpt.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-1000])
    with pytest.raises(DataError, match=r"data-00000-of-00001: not there or not whole"):
        api.load(copy)
    data.unlink()
    with pytest.raises(DataError, match=r"not there or not whole"):
        api.load(copy)


def test_a_flipped_bit_of_any_tensor_is_told(copy):
    data = copy / "bert_model.ckpt.data-00000-of-00001"
    whole, names = data.read_bytes(), set()
    tensors = Tf1Tensors(copy / "bert_model.ckpt")
    for name, place in tensors._places.items():
        spoilt = bytearray(whole)
        spoilt[place.offset + 5] ^= 4
        data.write_bytes(spoilt)
        for other in set(tensors.shapes) - {name}:
            tensors.read(other)
        with pytest.raises(
            DataError, match=r"data-00000-of-00001: \S+ is damaged: its checksum is not that in"
        ) as told:
            tensors.read(name)
        assert f" {place.name} is damaged" in str(told.value) and "bert_model.ckpt.index" in str(told.value)
        names.add(place.name)
    assert {"bert/encoder/layer_1/output/dense/kernel", "cls/predictions/output_bias"} < names


def test_nothing_is_made_of_a_damaged_tensor(copy, tmp_path):
    data = copy / "bert_model.ckpt.data-00000-of-00001"
    spoilt = bytearray(data.read_bytes())
    spoilt[Tf1Tensors(PREFIX)._places["bert.pooler.dense.bias"].offset] ^= 128
    data.write_bytes(spoilt)
    with pytest.raises(DataError, match="bert/pooler/dense/bias is damaged"):
        convert(Convert(source=str(copy), to=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


def test_a_damaged_index_is_refused(copy):
    index, rng = copy / "bert_model.ckpt.index", np.random.default_rng(0)
    whole, sound = index.read_bytes(), Tf1Tensors(PREFIX)
    refused = 0
    for _ in range(300):
        spoilt = bytearray(whole)
        for at in rng.integers(0, len(whole), 3):
            spoilt[at] ^= 1 << rng.integers(8)
        index.write_bytes(spoilt[: rng.integers(40, len(whole) + 1)] if rng.random() < 0.3 else spoilt)
        try:
            found = Tf1Tensors(copy / "bert_model.ckpt")
        except DataError as error:
            refused += 1
            assert str(error).startswith(f"{index}: not whole, or no checkpoint of BERT")
        else:  # what was damaged is not used
            assert found.shapes == sound.shapes
            assert all(np.array_equal(found.read(name), sound.read(name)) for name in sound.shapes)
    assert refused > 250


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"\xff" * 40 + tf1._MAGIC, bytes(48) + tf1._MAGIC])
def test_what_is_no_index(copy, content):
    (copy / "bert_model.ckpt.index").write_bytes(content)
    with pytest.raises(DataError, match=r"not whole, or no checkpoint of BERT"):
        Tf1Tensors(copy / "bert_model.ckpt")


def test_a_checkpoint_without_its_config(copy):
    (copy / "bert_config.json").unlink()
    with pytest.raises(DataError, match=re.escape("bert_config.json")):
        open_run(copy / "bert_model.ckpt")
    with pytest.raises(DataError, match="no checkpoints/"):
        open_run(copy)
