"""The weights of a directory: model.safetensors, whole or in shards, read one tensor at a time. Never a pickle."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from bertjax.data.vocabulary_files import read_object
from bertjax.errors import DataError
from bertjax.parsing import is_name, parse

FILE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "flax_model.msgpack")
MAX_HEADER = 2 << 20  # bytes; that of BERT-large is 45,000. A hostile one takes seconds a megabyte to parse
MAX_SHARDS = 1_000
KINDS = ("F32", "F16", "BF16")  # each is exact in float32


class Tensors:
    """Names, shapes and arrays in the safetensors files of a folder; the files are checked when it is made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.kinds: dict[str, str] = {}
        self._files: dict[str, Path] = {}
        wanted = _index(folder)
        for file in sorted(set(wanted.values())) or [_single(folder)]:
            with _open(file) as opened:
                _check_names(file)
                for name in opened.keys():  # noqa: SIM118 (not a dict)
                    if name in self._files:
                        raise DataError(f"{file}: {name} is in {self._files[name].name} too; get the files anew")
                    part = opened.get_slice(name)
                    self._files[name] = file
                    self.shapes[name], self.kinds[name] = tuple(part.get_shape()), part.get_dtype()
        missing = [name for name, file in wanted.items() if self._files.get(name) != file]
        if missing:
            raise DataError(
                f"{folder / INDEX}: {len(missing)} tensors are not in the file it names, the first is {missing[0]}; "
                "get the files anew"
            )

    def read(self, name: str) -> np.ndarray:
        """One tensor in float32."""
        if self.kinds[name] not in KINDS:
            raise DataError(
                f"{self._files[name]}: {name} is stored as {self.kinds[name]}; known: {', '.join(KINDS)}. "
                "Save the model in float32 with the library that made it"
            )
        with _open(self._files[name]) as opened:  # anew for each: what is mapped counts as memory in use
            return opened.get_tensor(name).astype(np.float32, copy=False)


def _index(folder: Path) -> dict[str, Path]:
    """Name -> file of every tensor of a directory in shards; empty where there is one file."""
    if (folder / FILE).is_file() or not (folder / INDEX).is_file():
        return {}
    table = read_object(folder / INDEX, INDEX).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise DataError(f"{folder / INDEX}: has no weight_map; get the file anew")
    wrong = [file for file in table.values() if not is_name(file)]
    if wrong:
        raise DataError(f"{folder / INDEX}: {wrong[0]!r} is not the name of a file beside it; get the file anew")
    if len(set(table.values())) > MAX_SHARDS:
        raise DataError(f"{folder / INDEX}: names over {MAX_SHARDS:,} files; no BERT is cut so small")
    return {name: folder / file for name, file in table.items()}


def _single(folder: Path) -> Path:
    if (folder / FILE).is_file():
        return folder / FILE
    pickled = next((name for name in PICKLES if (folder / name).exists()), "")
    if pickled:
        raise DataError(
            f"{folder}: has {pickled} but no {FILE}. Pickles run code when they are read, so they are not. Where torch "
            f'and transformers are installed: python -c "from transformers import AutoModelForPreTraining as M; '
            f"M.from_pretrained('{folder}').save_pretrained('{folder}', safe_serialization=True)\""
        )
    raise DataError(f"{folder}: has no {FILE} (nor {INDEX}); give a Hugging Face directory or the --out of a run")


def _check_names(file: Path) -> None:
    """The header as JSON; of a name that stands twice other readers take other numbers."""
    with file.open("rb") as stream:
        header = stream.read(int.from_bytes(stream.read(8), "little"))
    try:
        parse(header, strict=True)
    except ValueError as error:
        raise DataError(f"{file}: its header is damaged ({error}); get the file anew") from None


@contextmanager
def _open(file: Path) -> Iterator[Any]:
    if not file.is_file():
        raise DataError(f"{file}: no such file, but {INDEX} names it; get it beside the others")
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
    if size > MAX_HEADER:
        raise DataError(f"{file}: its header would be {size:,} bytes, over {MAX_HEADER:,}; not a model's weights")
    try:
        with safe_open(file, framework="numpy") as opened:
            yield opened
    except SafetensorError as error:
        raise DataError(f"{file}: not whole or not safetensors ({error}); get the file anew") from None
