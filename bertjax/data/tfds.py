"""Documents of a tensorflow-datasets data set, read without TensorFlow: tfds:NAME[/CONFIG][:VERSION][:SPLIT]."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bertjax.data.formats import Caps, whole
from bertjax.data.lines import BYTES, INVALID
from bertjax.errors import ConfigError, DataError, MissingData

PREFIX = "tfds:"
AT_ONCE = 128  # examples
_SPEC = re.compile(r"tfds:(?P<name>[\w.+/-]+?)(:(?P<version>\d+\.\d+\.\d+))?(:(?P<split>[^:].*))?")


def identity(spec: str, data_dir: str) -> tuple[str, int, int]:
    """(where its split lies, its bytes, its examples), by which a data set is known to be the same."""
    builder, split = _open(spec, data_dir)
    examples = builder.info.splits[split].num_examples
    whole_split = builder.info.splits[re.split(r"\[", split)[0]]
    size = int(whole_split.num_bytes * examples / max(whole_split.num_examples, 1))  # a slice has no size of its own
    return f"{builder.data_dir}:{split}", size, examples


def documents(spec: str, data_dir: str, column: str, caps: Caps, counts: Counter[str]) -> Iterator[list[str]]:
    """The texts of a feature, in the order of the prepared files."""
    builder, split = _open(spec, data_dir)
    _check_column(spec, builder.info.features, column)
    _, size, examples = identity(spec, data_dir)
    done = told = 0
    for rows in _read(spec, data_dir, builder, split, examples):
        for row in rows:
            yield from whole(_text(row[column], counts), caps, counts)
        done += len(rows)
        counts[BYTES] += size * done // examples - told
        told = size * done // examples


def examples(spec: str, data_dir: str) -> tuple[list[dict[str, Any]], dict[str, list[str]]]:
    """All examples of a split, texts as str, in the order of their `idx`, and the classes of each feature with some."""
    builder, split = _open(spec, data_dir)
    count = builder.info.splits[split].num_examples
    rows = [row for part in _read(spec, data_dir, builder, split, count) for row in part]
    names = {name: list(label.names) for name, label in builder.info.features.items() if hasattr(label, "names")}
    counts: Counter[str] = Counter()  # no text of a task is expected to be broken
    texts = [{n: _text(v, counts) if isinstance(v, bytes) else v for n, v in row.items()} for row in rows]
    if counts:
        raise DataError(f"{builder.data_dir}: {counts[INVALID]:,} texts of {split} are not UTF-8; prepare it again")
    return sorted(texts, key=lambda row: row.get("idx", 0)), names


def _read(spec: str, data_dir: str, builder: Any, split: str, examples: int) -> Iterator[list[dict[str, Any]]]:  # noqa: ANN401 (a tfds.core.DatasetBuilder)
    try:
        source = builder.as_data_source(split=split)
    except NotImplementedError:
        raise DataError(
            f"{builder.data_dir}: prepared in a format that only TensorFlow reads; "
            f"prepare it again as array_record: {_command(spec, data_dir)}"
        ) from None
    for start in range(0, examples, AT_ONCE):
        stop = min(start + AT_ONCE, examples)
        try:
            rows = source.__getitems__(list(range(start, stop)))
        except Exception as error:  # of array_record, of protobuf, of each feature
            reason = str(error).split("\n")[0]
            raise DataError(
                f"{builder.data_dir}: examples {start} to {stop - 1} of {split} cannot be read ({reason}); "
                f"prepare it again: {_command(spec, data_dir)}"
            ) from None
        yield rows


def _text(value: bytes, counts: Counter[str]) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        counts[INVALID] += 1
        return value.decode(errors="replace")


def _open(spec: str, data_dir: str) -> tuple[Any, str]:
    """The builder of the prepared files, which needs no code of the data set, and the split."""
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise ConfigError(f"{spec}: needs tensorflow-datasets: pip install 'bertjax[tfds]'") from None
    parts = _SPEC.fullmatch(spec)
    if not parts:
        raise ConfigError(f"{spec}: not of the form tfds:NAME[/CONFIG][:VERSION][:SPLIT]")
    options = {"version": parts["version"]} if parts["version"] else {}
    where = data_dir or str(tfds.core.constants.DATA_DIR)
    try:
        with _features_of_its_own(tfds.features.FeatureConnector):
            builder = tfds.core.read_only_builder.builder_from_files(parts["name"], data_dir=where, **options)
    except tfds.core.registered.DatasetNotFoundError:
        raise MissingData(
            f"{spec}: not prepared in {where}; --data-dir (of a task: tfds:NAME@DIR) names another folder; "
            f"to prepare it, where TensorFlow is installed: {_command(spec, where)}"
        ) from None
    except ImportError as error:  # gcsfs
        raise ConfigError(f"{spec}: {where} cannot be read: {error}") from None
    except Exception as error:  # of JSON, of protobuf, of each feature
        reason = str(error).split("\n")[0]
        raise DataError(f"{spec}: cannot be read ({reason}); prepare it again: {_command(spec, where)}") from None
    split = parts["split"] or "train"
    try:
        _ = builder.info.splits[split].num_examples
    except (ValueError, KeyError, AssertionError):
        has = ", ".join(builder.info.splits)
        raise DataError(f"{spec}: no split {split!r}; it has: {has}; a part of one: train[:10%]") from None
    _check_files(spec, where, builder)
    return builder, split


def _check_files(spec: str, where: str, builder: Any) -> None:  # noqa: ANN401 (a tfds.core.DatasetBuilder)
    """Raises where dataset_info.json, by its templates or names of splits, leads to files that are not beside it."""
    try:
        files = [file for split in builder.info.splits.values() for file in split.filepaths]
    except Exception as error:  # TFDS raises many kinds
        reason = str(error).split("\n")[0]
        raise DataError(
            f"{spec}: its files have no names ({reason}); prepare it again: {_command(spec, where)}"
        ) from None
    if any(file.parent != builder.data_path for file in files):
        raise DataError(f"{spec}: its dataset_info.json names files in other folders; prepare it again")


@contextmanager
def _features_of_its_own(connector: Any) -> Iterator[None]:  # noqa: ANN401 (tfds.features.FeatureConnector)
    """While it is open, no class that a features.json names is imported but those of TFDS."""
    named = connector.__dict__["cls_from_name"]

    def known(cls: Any, name: str) -> Any:  # noqa: ANN401 (classes of tfds)
        if not name.startswith("tensorflow_datasets.core.features."):
            raise ValueError(f"its features.json names the class {name!r}, which is none of TFDS")
        return named.__func__(cls, name)

    connector.cls_from_name = classmethod(known)
    try:
        yield
    finally:
        connector.cls_from_name = named


def _command(spec: str, data_dir: str) -> str:
    parts = _SPEC.fullmatch(spec)
    assert parts
    version = f":{parts['version']}" if parts["version"] else ""
    folder = f" --data_dir {data_dir}" if data_dir else ""
    return f"tfds build {parts['name']}{version} --file_format array_record{folder}"


def _check_column(spec: str, features: Any, column: str) -> None:  # noqa: ANN401 (a tfds.features.FeaturesDict)
    import tensorflow_datasets as tfds

    kinds = {name: type(feature).__name__ for name, feature in features.items()}
    if column not in features or not isinstance(features[column], tfds.features.Text):
        found = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
        raise DataError(f"{spec}: no text {column!r}; name it by --text-column; it has: {found}")
