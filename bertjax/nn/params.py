"""Modules that say how their parameters begin."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn

from bertjax.initial import note


class Module(nn.Module):
    """A Flax module with parameters of its own, which a run can draw on the host (bertjax/initial.py)."""

    @nn.nowrap
    def param(self, name: str, init_fn: Callable[..., Any], *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 (as Flax's)
        """As Flax's; `init_fn` is an `Initializer`."""
        return super().param(name, note((*self.path, name), init_fn), *arguments, **options)
