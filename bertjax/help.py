"""What `--help` says of options: the docstrings below the fields of the configs."""

import ast
import inspect
import textwrap
from dataclasses import fields, is_dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any


def unwrap(config: Any) -> None:  # noqa: ANN401 (a config dataclass)
    """What stands below the fields of a config, and of those it holds, in one line each: tyro keeps line breaks."""
    docs: dict[str, str] = {}
    for kind in type(config).__mro__:
        docs = _below_fields(kind) | docs
    for f in fields(config):
        if f.name in docs:
            f.metadata = MappingProxyType({**f.metadata, "help": docs[f.name]})
        value = getattr(config, f.name)
        if is_dataclass(value):
            unwrap(value)


def _below_fields(kind: type[Any]) -> dict[str, str]:
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    except (OSError, TypeError):  # of a class that no file has
        return {}
    return {
        entry.target.id: " ".join(doc.value.value.split())
        for entry, doc in pairwise(getattr(body, "body", ()))
        if isinstance(entry, ast.AnnAssign) and isinstance(entry.target, ast.Name)
        if isinstance(doc, ast.Expr) and isinstance(doc.value, ast.Constant) and isinstance(doc.value.value, str)
    }
