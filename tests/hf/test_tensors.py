"""Weights are read exactly, and files that are damaged, hostile or pickles are refused before they cost anything."""

import json
import resource
import struct
import time

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from bertjax.errors import DataError
from bertjax.hf.tensors import MAX_HEADER, Tensors

ARRAYS = {"a": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.ones(5, np.float32)}


def shards(folder, **weight_map):
    save_file({"a": ARRAYS["a"]}, folder / "one.safetensors")
    save_file({"b": ARRAYS["b"]}, folder / "two.safetensors")
    table = {"a": "one.safetensors", "b": "two.safetensors", **weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": table}))


def raw(folder, header, *, length=None, body=b""):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = len(header) if length is None else length
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", length) + header + body)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_floats_of_all_widths_are_exact(tmp_path, dtype):
    array = np.random.default_rng(0).normal(size=(3, 5)).astype(dtype)
    save_file({"x": array}, tmp_path / "model.safetensors")
    tensors = Tensors(tmp_path)
    assert tensors.shapes == {"x": (3, 5)} and tensors.read("x").dtype == np.float32
    np.testing.assert_array_equal(tensors.read("x"), array.astype(np.float32))


@pytest.mark.parametrize("dtype", [np.float64, np.int8])
def test_what_is_no_float_or_would_be_rounded(tmp_path, dtype):
    save_file({"x": np.ones(3, dtype)}, tmp_path / "model.safetensors")
    with pytest.raises(DataError, match=r"model.safetensors: x is stored as (F64|I8); known: F32, F16, BF16"):
        Tensors(tmp_path).read("x")


def test_shards(tmp_path):
    shards(tmp_path)
    tensors = Tensors(tmp_path)
    assert tensors.shapes == {"a": (3, 4), "b": (5,)}
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(tensors.read(name), array)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"b": "one.safetensors"}, "1 tensors are not in the file it names, the first is b"),
        ({"c": "two.safetensors"}, "the first is c"),
        ({"b": "three.safetensors"}, "three.safetensors: no such file, but model.safetensors.index.json names it"),
        ({"b": "../two.safetensors"}, "'../two.safetensors' is not the name of a file beside it"),
        ({"b": "/etc/passwd"}, "'/etc/passwd' is not the name of a file beside it"),
        ({"b": ".."}, "'..' is not the name"),
        ({"b": 3}, "3 is not the name"),
    ],
)
def test_an_index_that_does_not_fit(tmp_path, change, message):
    shards(tmp_path, **change)
    with pytest.raises(DataError) as error:
        Tensors(tmp_path)
    assert message in str(error.value)


def test_a_tensor_in_two_shards(tmp_path):
    shards(tmp_path)
    save_file(ARRAYS, tmp_path / "two.safetensors")
    with pytest.raises(DataError, match=r"two.safetensors: a is in one.safetensors too"):
        Tensors(tmp_path)


@pytest.mark.parametrize("index", ["[]", '{"weight_map": []}', '{"weight_map": {}}', "{", "[" * 100_000])
def test_an_index_that_is_none(tmp_path, index):
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(DataError, match=r"index.json"):
        Tensors(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "tf_model.h5", "flax_model.msgpack"])
def test_pickles_are_refused_with_the_cure(tmp_path, name):
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(DataError, match=rf"has {name} but no model.safetensors. Pickles run code.*safe_serialization"):
        Tensors(tmp_path)


def test_no_weights(tmp_path):
    with pytest.raises(DataError, match=r"has no model.safetensors"):
        Tensors(tmp_path)


X = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    ("header", "length", "body"),
    [
        ({"x": X}, 1 << 63, b"1234"),
        ({"x": X}, MAX_HEADER + 1, b"1234"),
        (b" " * (MAX_HEADER + 8), None, b""),
        ({"x": X}, None, b""),  # cut off
        ({"x": X}, 10, b"1234"),
        ({"x": {**X, "shape": [1 << 62, 1 << 62]}}, None, b"1234"),
        ({"x": {**X, "shape": [2]}}, None, b"1234"),
        ({"x": {**X, "data_offsets": [4, 8]}}, None, b"12345678"),  # a hole
        ({"x": X, "y": X}, None, b"1234"),  # they overlap
        (b"{" * 1000, None, b""),
        (b'{"x": \xff}', None, b""),
        (b"[" * 500_000, None, b""),
    ],
)
def test_hostile_files_are_refused_in_no_time(tmp_path, header, length, body):
    raw(tmp_path, header, length=length, body=body)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(DataError, match=r"model.safetensors: "):
        Tensors(tmp_path)
    assert time.process_time() - began < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # in KiB


def test_an_empty_file(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(DataError, match=r"not whole or not safetensors"):
        Tensors(tmp_path)


def test_a_name_is_never_a_path(tmp_path):
    raw(tmp_path, {"../../x": X}, body=b"1234")
    assert Tensors(tmp_path).shapes == {"../../x": (1,)}
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.safetensors"]
