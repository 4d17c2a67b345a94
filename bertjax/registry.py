"""The file system is the registry: `bertjax/models/bert.py` is the model family `bert`."""

import importlib
import importlib.util
import os
import pkgutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType

from bertjax.errors import ConfigError, UserError, closest, raised_in

KINDS = ("models", "objectives", "tasks")
TRUST = "BERTJAX_TRUST"  # environment variable: packages, with commas between, that files may name modules of
_from_file = ContextVar("_from_file", default=False)


@contextmanager
def named_by_a_file() -> Iterator[None]:
    """While it is open names come from a file: no module of others is imported that the user has not asked for."""
    token = _from_file.set(True)
    try:
        yield
    finally:
        _from_file.reset(token)


def names(kind: str) -> list[str]:
    """Modules of a kind: names("models") -> ["bert", ...]."""
    package = importlib.import_module(f"bertjax.{kind}")
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


def find(kind: str, name: str) -> ModuleType:
    """The module of a kind by its file name; a dotted name (`my_lab.models.foo`) is imported as it is."""
    if "." in name:
        package = name.partition(".")[0]
        if _from_file.get() and name not in sys.modules and package not in os.environ.get(TRUST, "").split(","):
            raise ConfigError(
                f"{kind}: a file names the module {name!r}; to import it is to run its code, so where you trust that, "
                f"say so: {TRUST}={package}, or import it in your recipe"
            )
        try:
            return importlib.import_module(name)
        except UserError:
            raise
        except Exception as error:  # it is the user's program
            if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
                raise ConfigError(f"{kind}: cannot import {name!r} ({error}); is it on PYTHONPATH?") from None
            raise ConfigError(f"{kind}: cannot import {name!r}: {raised_in(error, package)}") from None
    if name not in names(kind):
        raise ConfigError(f"{kind}: there is no {name!r}{closest(name, names(kind))}")
    return importlib.import_module(f"bertjax.{kind}.{name}")


def name_of(kind: str, value: object) -> str:
    """The name under which `find` gives the module that defines the class of `value`."""
    module = type(value).__module__
    prefix = f"bertjax.{kind}."
    return module.removeprefix(prefix)
