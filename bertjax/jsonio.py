"""Configs as strict JSON: every key is known, every type is right, nothing is cast in silence."""

import json
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from bertjax import registry
from bertjax.contracts import ModelConfig, ObjectiveConfig
from bertjax.errors import ConfigError, DataError, closest, without_passwords
from bertjax.parsing import parse
from bertjax.paths import size, write_text

Config = TypeVar("Config")
MOST = 64 << 20  # bytes of a file of ours

# Fields declared with one of these hold a dataclass of a family or objective, stored with its name in the registry.
NAMED: dict[type, str] = {ModelConfig: "models", ObjectiveConfig: "objectives"}


def to_json(value: Any) -> Any:  # noqa: ANN401 (any JSON value)
    """A config as plain dicts, lists, strings and numbers, without the passwords of URLs."""
    if is_dataclass(value):
        kind = next((kind for base, kind in NAMED.items() if isinstance(value, base)), None)
        name = {"name": registry.name_of(kind, value)} if kind else {}
        return name | {f.name: to_json(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, tuple):
        return [to_json(item) for item in value]
    return without_passwords(value) if isinstance(value, str) else value


def from_json(kind: type[Config], data: Any, where: str) -> Config:  # noqa: ANN401 (any JSON value)
    """The inverse of `to_json`; `where` stands in messages. Unknown keys and wrong types raise ConfigError."""
    if kind in NAMED:
        if not isinstance(data, dict) or not isinstance(data.get("name"), str):
            raise ConfigError(f'{where}: needs a "name" (one of {", ".join(registry.names(NAMED[kind]))})')
        data = dict(data)
        name = data.pop("name")
        with registry.named_by_a_file():
            found = getattr(registry.find(NAMED[kind], name), "Config", None)
        if not (isinstance(found, type) and issubclass(found, kind)):
            raise ConfigError(f"{where}: {name!r} is none of {NAMED[kind]}: it has no such Config")
        return from_json(found, data, where)
    if is_dataclass(kind):
        return _dataclass(kind, data, where)
    return _plain(kind, data, where)


def _dataclass(kind: Any, data: Any, where: str) -> Any:  # noqa: ANN401 (a dataclass and a JSON value)
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: needs an object with the fields of {kind.__name__}, is {data!r}")
    known = {f.name: f for f in fields(kind)}
    for key in data:
        if key not in known:
            raise ConfigError(f"{where}.{key}: there is no such key{closest(key, known)}")
    missing = [n for n, f in known.items() if n not in data and f.default is MISSING and f.default_factory is MISSING]
    if missing:
        raise ConfigError(f"{where}: missing {', '.join(missing)}")
    hints = get_type_hints(kind)
    values = {key: from_json(hints[key], value, f"{where}.{key}") for key, value in data.items()}
    try:
        with registry.named_by_a_file():
            return kind(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _plain(kind: Any, data: Any, where: str) -> Any:  # noqa: ANN401 (a type and a JSON value)
    origin = get_origin(kind)
    if origin is tuple:
        if not isinstance(data, list):
            raise ConfigError(f"{where}: needs a list, is {data!r}")
        kinds = get_args(kind)
        kinds = kinds[:1] * len(data) if kinds[1:] == (...,) else kinds
        if len(kinds) != len(data):
            raise ConfigError(f"{where}: needs {len(kinds)} values, is {data!r}")
        return tuple(from_json(kinds[i], item, f"{where}[{i}]") for i, item in enumerate(data))
    if origin is Literal:
        if data not in get_args(kind):
            raise ConfigError(f"{where}: {data!r}{closest(str(data), map(str, get_args(kind)))}")
        return data
    assert origin is not types.UnionType, f"{where}: unions are not stored"
    if kind is float and type(data) is int:
        return float(data)
    if type(data) is not kind:
        raise ConfigError(f"{where}: needs {kind.__name__}, is {data!r}")
    return data


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401 (any JSON value)
    """Writes whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Reads a file of ours, an object; `what` names the command that makes it."""
    if (size(path) or 0) > MOST:
        raise DataError(f"{path}: over {MOST >> 20} MB; it is made by {what}")
    try:
        data = parse(path.read_bytes(), strict=True)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; it is made by {what}") from None
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}); it is made by {what}") from None
    if not isinstance(data, dict):
        raise DataError(f"{path}: not a JSON object but a {type(data).__name__}; it is made by {what}")
    return data


@contextmanager
def expecting(path: Path, what: str) -> Iterator[None]:
    """Whatever is not as it must be in a file of ours raises DataError; `what` names the command that makes it."""
    try:
        yield
    except DataError as error:
        raise error if str(path) in str(error) else DataError(f"{path}: {error}") from None
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(f"{path}: damaged ({error!r}); it is made by {what}") from None
