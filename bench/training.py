"""Training as `bertjax pretrain` does it, by AdamW: a state, and the compiled step that changes it."""

import jax
from jax.sharding import Mesh

from bertjax.contracts import Batch, Objective
from bertjax.train.optim import Optimizer
from bertjax.train.state import init_state
from bertjax.train.step import make_train_step


class Training:
    """An objective with AdamW on a mesh."""

    def __init__(
        self, objective: Objective, mesh: Mesh, *, recipe: Optimizer | None = None, steps: int = 1_000, seed: int = 0
    ) -> None:
        recipe = recipe or Optimizer(kind="adamw")
        optimizer = recipe.build(steps)
        self.state = init_state(objective, optimizer, seed=seed, mesh=mesh)
        self._step = make_train_step(objective, optimizer, mesh, schedule=recipe.schedule(steps))

    def step(self, batch: Batch) -> None:
        """One step of a batch that is on the devices, and its end."""
        self.state, _ = jax.block_until_ready(self._step(self.state, batch))
