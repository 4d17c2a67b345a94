"""Recipes: Python files with a function `config()`. What is wrong in one is the user's to mend, and told as such."""

import importlib.util
import re
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from bertjax.errors import ConfigError, UserError, closest, raised_in

Run = TypeVar("Run")


def load_recipe(path: str, kind: type[Run]) -> Run:
    """Calls `config()` of a recipe file; it must return a `kind`."""
    if not Path(path).is_file():
        raise ConfigError(f"{path}: no such recipe; the ones that come with bertjax are in configs/")
    spec = importlib.util.spec_from_file_location("recipe", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path}: a recipe is a Python file (.py)")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        make: Callable[[], object] | None = getattr(module, "config", None)
        recipe = make() if make else None
    except UserError as error:
        raise ConfigError(f"{path}: {error}") from None
    except Exception as error:  # a recipe is the user's program: a misspelt field, a name that is not imported
        said = raised_in(error, spec.name)
        where = "" if said.startswith(f"{path}:") else f"{path}: "
        raise ConfigError(f"{where}{said}{_nearest_field(error, module)}") from None
    if make is None:
        raise ConfigError(f"{path}: a recipe defines `def config() -> {kind.__name__}`")
    if not isinstance(recipe, kind):
        raise ConfigError(f"{path}: config() gives a {type(recipe).__name__}, this command needs a {kind.__name__}")
    return recipe


def _nearest_field(error: Exception, recipe: ModuleType) -> str:
    """What an unknown keyword of a config class was meant to be; nothing for other errors."""
    found = re.fullmatch(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'.*", str(error))
    if not found:
        return ""
    owners = [recipe, *(value for value in vars(recipe).values() if isinstance(value, ModuleType))]
    classes = (getattr(owner, found[1], None) for owner in owners)
    names = [field.name for known in classes if known is not None and is_dataclass(known) for field in fields(known)]
    return closest(found[2], names) if names else ""
