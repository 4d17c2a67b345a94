"""The training step: one jitted function over a mesh."""

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bertjax.compiled import step_options
from bertjax.contracts import Batch, Metrics, Objective, Params
from bertjax.keys import HASHED, for_rows
from bertjax.train.mesh import ROWS, put
from bertjax.train.optim import Schedule, global_norm, unless
from bertjax.train.state import TrainState, planned_state

Update = optax.GradientTransformation

# Metrics that are no means, and are of skipped steps too.
WATCHED = "watched"  # (loss, norm of the gradient) of one step
TOKENS = "tokens"  # (real tokens of the batch, tokens with padding)


class TrainStep:
    """A compiled step: the old state is given up, the new one and the metrics of the batch come out."""

    def __init__(self, program: Any, mesh: Mesh, schedule: Schedule | None) -> None:  # noqa: ANN401 (a jitted function)
        """`program` takes state, batch and the numbers of `schedule`."""
        self._program, self._everywhere = program, NamedSharding(mesh, PartitionSpec())
        self._numbers = schedule.numbers if schedule else None

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """One update."""
        return self._program(state, batch, self._on_devices)

    def lower(self, state: TrainState, batch: Any) -> Any:  # noqa: ANN401 (abstract arrays; a jax.stages.Lowered)
        """The program for abstract arrays, to be compiled ahead of time."""
        return self._program.lower(state, batch, self._numbers)

    @cached_property
    def _on_devices(self) -> jax.Array | None:
        numbers = self._numbers  # a mesh may be of chips that are not here: so not before the first call
        return numbers if numbers is None else put(numbers, self._everywhere)


def make_train_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    micro_batches: int = 1,
    schedule: Schedule | None = None,
) -> TrainStep:
    """(state, batch) -> (state, metrics); the old state is given up.

    `schedule` takes the place of the optimizer's own as an input of the program, which then serves all of them: runs
    that differ in steps, warm-up or peak compile once.

    The loss is the sum over the objective's terms of total / weight with the weights of the whole batch, so the
    gradient does not depend on `micro_batches`. Where it or the gradient is not finite, only the step number moves, and
    the metrics are those of no rows, but for WATCHED and TOKENS.
    """
    gradient = _gradient(objective, mesh, micro_batches)
    update = optax.with_extra_args_support(optimizer).update

    def step(state: TrainState, batch: Batch, numbers: jax.Array | None) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key, impl=HASHED), state.step)
        gradients, metrics = gradient(state.params, batch, key)
        norm = global_norm(gradients)
        loss = jnp.stack([_mean(*metrics[name]) for name in objective.loss_terms]).sum()
        good = jnp.isfinite(loss) & jnp.isfinite(norm)
        known = {"good": good, "norm": norm, "schedule": numbers}
        updates, opt_state = update(gradients, state.opt_state, state.params, **known)
        params = optax.apply_updates(state.params, updates)
        params, opt_state = unless(good, (params, opt_state), (state.params, state.opt_state))
        whatever = {WATCHED: (loss, norm), TOKENS: metrics.pop(TOKENS)}
        metrics = jax.tree.map(lambda x: jnp.where(good, x, 0.0), {**metrics, "grad_norm": (norm, jnp.ones(()))})
        return TrainState(state.step + 1, params, opt_state, state.key), {**metrics, **whatever}

    everywhere = NamedSharding(mesh, PartitionSpec())
    placed = jax.tree.map(lambda x: x.sharding, planned_state(objective, optimizer, mesh))
    inputs = (placed, None, None if schedule is None else everywhere)
    options = step_options(mesh.devices.flat[0].platform)
    program = jax.jit(
        step, donate_argnums=0, in_shardings=inputs, out_shardings=(placed, everywhere), compiler_options=options
    )
    return TrainStep(program, mesh, schedule)


Gradient = Callable[[Params, Batch, jax.Array], tuple[Params, Metrics]]


def _gradient(objective: Objective, mesh: Mesh, micro_batches: int) -> Gradient:
    """(params, batch, key) -> gradient and metrics of a batch."""
    summed = _summed(objective, micro_batches)

    def whole(params: Params, batch: Batch, key: jax.Array) -> tuple[Params, Metrics]:
        return summed(params, batch, objective.loss_weights(batch), key, 0)

    def reduced(params: Params, batch: Batch, key: jax.Array) -> tuple[Params, Metrics]:
        weights = jax.lax.psum(objective.loss_weights(batch), ROWS[0])
        first = jax.lax.axis_index(ROWS[0]) * len(batch["tokens"])
        return jax.lax.psum(summed(params, batch, weights, key, first), ROWS[0])

    if mesh.size == 1 or mesh.shape["dcn"] * mesh.shape["data"] < mesh.size:
        return whole
    # Each device has all parameters: it sums the gradient of its rows, and all of it is reduced once, in float32. Left
    # to XLA that of the token table is reduced twice, and everything once for each micro-batch.
    nothing = PartitionSpec()
    return jax.shard_map(reduced, mesh=mesh, in_specs=(nothing, ROWS, nothing), out_specs=nothing, check_vma=False)


def _summed(
    objective: Objective, micro_batches: int
) -> Callable[[Params, Batch, dict[str, jax.Array], jax.Array, jax.Array | int], tuple[Params, Metrics]]:
    """(params, rows, weights of the whole batch, key, number of their first) -> gradient and metrics of these rows."""

    def loss_and_metrics(
        params: Params, batch: Batch, weights: dict[str, jax.Array], key: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        metrics: Any = objective.apply({"params": params}, batch, train=True, rngs={"dropout": key})
        sequence = batch["sequence"]
        metrics[TOKENS] = jnp.sum(sequence > 0, dtype=jnp.float32), jnp.float32(sequence.size)
        return jnp.stack([_mean(metrics[name][0], weight) for name, weight in weights.items()]).sum(), metrics

    gradient = jax.grad(loss_and_metrics, has_aux=True)

    def accumulate(
        params: Params, batch: Batch, weights: dict[str, jax.Array], key: jax.Array, first: jax.Array | int
    ) -> tuple[Params, Metrics]:
        # Micro-batch k takes rows k, k+K, ...: each is spread over all devices that hold the batch.
        rows = partial(for_rows, key, len(batch["tokens"]) // micro_batches, apart=micro_batches)
        if micro_batches == 1:
            return gradient(params, batch, weights, rows(first=first))

        def add(total: Any, numbered: tuple[jax.Array, Batch]) -> tuple[Any, None]:  # noqa: ANN401 (a pytree)
            index, micro = numbered
            return jax.tree.map(jnp.add, total, gradient(params, micro, weights, rows(first=first + index))), None

        micro = {n: jnp.swapaxes(x.reshape(-1, micro_batches, *x.shape[1:]), 0, 1) for n, x in batch.items()}
        shapes = jax.eval_shape(lambda: gradient(params, {n: x[0] for n, x in micro.items()}, weights, rows(first=0)))
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        return jax.lax.scan(add, zeros, (jnp.arange(micro_batches), micro))[0]

    return accumulate


def _mean(total: jax.Array, weight: jax.Array) -> jax.Array:
    """total / weight; 0 where a whole batch has nothing of a term."""
    return total / jnp.where(weight > 0, weight, 1.0)


def make_eval_step(objective: Objective) -> Callable[[Params, Batch], Metrics]:
    """(params, batch) -> metrics without dropout."""
    return jax.jit(lambda params, batch: objective.apply({"params": params}, batch, train=False))
