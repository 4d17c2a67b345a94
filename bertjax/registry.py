"""The file system is the registry: `bertjax/models/bert.py` is the model family `bert`."""

import importlib
import importlib.util
import pkgutil
from types import ModuleType

from bertjax.errors import ConfigError, closest

KINDS = ("models", "objectives", "tasks")


def names(kind: str) -> list[str]:
    """Modules of a kind: names("models") -> ["bert", ...]."""
    package = importlib.import_module(f"bertjax.{kind}")
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


def find(kind: str, name: str) -> ModuleType:
    """The module of a kind by its file name; a dotted name (`my_lab.models.foo`) is imported as it is."""
    if "." in name:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise ConfigError(f"{kind}: cannot import {name!r} ({error}); is it on PYTHONPATH?") from None
    if name not in names(kind):
        raise ConfigError(f"{kind}: there is no {name!r}{closest(name, names(kind))}")
    return importlib.import_module(f"bertjax.{kind}.{name}")


def name_of(kind: str, value: object) -> str:
    """The name under which `find` gives the module that defines the class of `value`."""
    module = type(value).__module__
    prefix = f"bertjax.{kind}."
    return module.removeprefix(prefix)
