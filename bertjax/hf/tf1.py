"""Google's checkpoints (bert_model.ckpt.index and .data), read without TensorFlow, under Hugging Face's names.

The index is a table of LevelDB's format (tensorflow/core/lib/io/table): blocks of (key, value) pairs, keys without the
beginning they share with the one before; values are BundleEntryProto (tensor_bundle.proto). Numbers lie in the data
files as they are; each tensor has its checksum in the index.
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from bertjax.errors import DataError

CONFIG, INDEX = "bert_config.json", ".index"
MAX_INDEX = 4 << 20  # bytes; that of BERT-large is 40,000
MAX_NAME = 1_000
_MAGIC = 0xDB4775248B80FB57.to_bytes(8, "little")
_DTYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype(np.float32),
    14: np.dtype(ml_dtypes.bfloat16),
    19: np.dtype(np.float16),
}
_TRAINING = re.compile(r"(^|/)(global_step|adam_[mv]|AdamWeightDecayOptimizer(_\d+)?)$")
_LEAVES = {"kernel": "weight", "gamma": "weight", "beta": "bias", "output_weights": "weight", "output_bias": "bias"}
Fields = dict[int, list[int | bytes]]


def prefix_of(path: Path) -> Path | None:
    """The checkpoint that a path names: its prefix (bert_model.ckpt), or a folder with one and its bert_config.json."""
    if path.name and path.with_name(path.name + INDEX).is_file():
        return path
    if not (path / CONFIG).is_file():
        return None
    found = sorted(path.glob(f"*.ckpt*{INDEX}"))
    if len(found) > 1:
        names = ", ".join(file.name.removesuffix(INDEX) for file in found)
        raise DataError(f"{path}: has several checkpoints; give one of them: {path}/ and {names}")
    return found[0].with_name(found[0].name.removesuffix(INDEX)) if found else None


class _Place(NamedTuple):
    """Where a tensor lies; `name` is the index's own for it."""

    file: Path
    offset: int
    dtype: np.dtype[Any]
    name: str
    checksum: int

    @property
    def transposed(self) -> bool:
        return self.name.endswith("/kernel")


class Tf1Tensors:
    """Names, shapes and arrays of a checkpoint, as `Tensors` of a Hugging Face directory."""

    def __init__(self, prefix: Path) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._file = prefix.with_name(prefix.name + INDEX)
        self._places: dict[str, _Place] = {}
        try:
            self._read_index(prefix)
        except (IndexError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{self._file}: not whole, or no checkpoint of BERT ({error!r}); get it anew") from None
        sizes = {file: file.stat().st_size if file.is_file() else 0 for file, *_ in self._places.values()}
        for name, place in self._places.items():
            if place.offset + math.prod(self.shapes[name]) * place.dtype.itemsize > sizes[place.file]:
                raise DataError(f"{place.file}: not there or not whole: {name} ends beyond it; get the checkpoint anew")

    def read(self, name: str) -> np.ndarray:
        """One tensor in float32, a Linear as [outputs, inputs]."""
        place = self._places[name]
        shape = self.shapes[name][::-1] if place.transposed else self.shapes[name]
        with place.file.open("rb") as file:
            file.seek(place.offset)
            data = file.read(math.prod(shape) * place.dtype.itemsize)
        if _checksum(data) != place.checksum:
            raise DataError(
                f"{place.file}: {place.name} is damaged: its checksum is not that in {self._file.name}; "
                "get the checkpoint anew"
            )
        array = np.frombuffer(data, place.dtype).reshape(shape).astype(np.float32, copy=False)
        return array.T if place.transposed else array

    def _read_index(self, prefix: Path) -> None:
        if self._file.stat().st_size > MAX_INDEX:
            raise ValueError(f"over {MAX_INDEX:,} bytes")
        data = self._file.read_bytes()
        if data[-8:] != _MAGIC or len(data) < 48:
            raise ValueError("no table ends it")
        handle = data[-48:]
        _, at = _varint(handle, _varint(handle, 0)[1])  # the meta index, which is empty
        shards = 1
        for _, value in _block(data, *_handle(handle, at)):
            for key, entry in _block(data, *_handle(value, 0)):
                fields = _fields(entry)
                if not key:
                    shards = _int(fields, 1)
                    if _int(fields, 2):
                        raise ValueError("big-endian")
                elif not _TRAINING.search(key.decode()):
                    self._add(prefix, key.decode(), fields, shards)
        if not self.shapes:
            raise ValueError("it names no tensors")

    def _add(self, prefix: Path, name: str, fields: Fields, shards: int) -> None:
        dims = [_fields(dim) for dim in _fields(fields.get(2, [b""])[0]).get(2, [])]
        shape = tuple(_int(dim, 1) for dim in dims)
        dtype, offset, size = _DTYPES.get(_int(fields, 1)), _int(fields, 4), _int(fields, 5)
        if dtype is None or 7 in fields:
            raise ValueError(f"{name} is not float32, float16 or bfloat16, or is cut in slices")
        if size != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{name}: {size} bytes for shape {shape}")
        file = prefix.with_name(f"{prefix.name}.data-{_int(fields, 3):05d}-of-{shards:05d}")
        place = _Place(file, offset, dtype, name, _int(fields, 6))
        self.shapes[_name(name)] = shape[::-1] if place.transposed else shape
        self._places[_name(name)] = place


def _name(name: str) -> str:
    """bert/encoder/layer_0/output/dense/kernel -> bert.encoder.layer.0.output.dense.weight."""
    module, _, leaf = re.sub(r"/layer_(\d+)/", r"/layer/\1/", name).rpartition("/")
    module = {"": "classifier", "cls/squad": "qa_outputs"}.get(module, module)
    if module == "bert/embeddings":  # the tables have no leaf
        module, leaf = f"{module}/{leaf}", "kernel"
    return f"{module.replace('/', '.')}.{_LEAVES.get(leaf, leaf)}"


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("a number of over ten bytes")


def _handle(data: bytes, at: int) -> tuple[int, int]:
    """Offset and size of a block."""
    offset, at = _varint(data, at)
    return offset, _varint(data, at)[0]


def _block(data: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """The pairs of a block; after it stand the kind of its compression, here none, and its checksum."""
    kind, stored = data[offset + size], int.from_bytes(data[offset + size + 1 : offset + size + 5], "little")
    if kind != 0 or stored != _checksum(data[offset : offset + size + 1]):
        raise ValueError("a block that is compressed or damaged")
    block, key, at = data[offset : offset + size], b"", 0
    end = size - 4 - 4 * int.from_bytes(block[-4:], "little")
    while at < end:
        shared, at = _varint(block, at)
        fresh, at = _varint(block, at)
        length, at = _varint(block, at)
        key = key[:shared] + block[at : at + fresh]
        if len(key) > MAX_NAME:
            raise ValueError("a name that is too long")
        yield key, block[at + fresh : at + fresh + length]
        at += fresh + length


def _checksum(data: bytes) -> int:
    """CRC-32C, masked as LevelDB stores it."""
    import google_crc32c

    crc: int = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _fields(message: int | bytes) -> Fields:
    """The fields of a protocol buffer's message by number: integers, or bytes where they have a length."""
    if not isinstance(message, bytes):
        raise ValueError("a number where a message is expected")
    found: Fields = {}
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        if tag & 7 == 0:
            value: int | bytes
            value, at = _varint(message, at)
        elif tag & 7 == 2:
            length, at = _varint(message, at)
            value, at = message[at : at + length], at + length
        else:
            width = {1: 8, 5: 4}[tag & 7]
            value, at = int.from_bytes(message[at : at + width], "little"), at + width
        found.setdefault(tag >> 3, []).append(value)
    return found


def _int(fields: Fields, number: int) -> int:
    value = fields.get(number, [0])[0]
    if not isinstance(value, int) or value >= 1 << 62:
        raise ValueError(f"field {number} is no number")
    return value
