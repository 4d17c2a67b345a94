"""bertjax: encoder language models in JAX, from raw text to a score. `bertjax --help` lists the commands."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bertjax.api import Model, load, load_tokenizer

__all__ = ["Model", "load", "load_tokenizer"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 (a module's attribute)
    """`bertjax.load` imports jax when it is first asked for, so that `bertjax --help` need not."""
    if name in __all__:
        from bertjax import api

        return getattr(api, name)
    raise AttributeError(f"module 'bertjax' has no attribute {name!r}")
