"""Optimizers as pairs of pure functions, the original's among them (google-research/bert, optimization.py)."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bertjax.errors import ConfigError, closest
from bertjax.train.mesh import path_of

NOT_DECAYED = (r"norm/(scale|bias)$", r"(^|/)bias$")  # LayerNorm and biases, as in the original; tables do decay


@dataclass(frozen=True)
class Optimizer:
    """Update rule and learning-rate schedule."""

    kind: str = "bert-adam"
    """bert-adam (no bias correction, as the original), adamw or lamb"""
    peak_lr: float = 1e-4
    warmup: float = 0.01
    """steps of linear warm-up; below 1: a share of all steps"""
    b1: float = 0.9
    b2: float = 0.999
    epsilon: float = 1e-6
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    """global norm the gradient is clipped to; 0 is off"""
    layer_decay: float = 1.0
    """rate of a layer over that of the one above it, for fine-tuning (ELECTRA: 0.8, large 0.9); 1 is off"""

    def __post_init__(self) -> None:
        if self.kind not in SCALINGS:
            raise ConfigError(f"optimizer.kind={self.kind!r}{closest(self.kind, SCALINGS)}")
        if self.peak_lr <= 0 or self.epsilon <= 0:
            raise ConfigError(f"optimizer.peak_lr={self.peak_lr} and epsilon={self.epsilon} must be above 0")
        if not (0 <= self.b1 < 1 and 0 <= self.b2 < 1):
            raise ConfigError(f"optimizer.b1={self.b1} and b2={self.b2} must lie in [0, 1)")
        if not 0 < self.layer_decay <= 1:
            raise ConfigError(f"optimizer.layer_decay={self.layer_decay} must lie above 0 and up to 1, which is off")
        if min(self.warmup, self.weight_decay, self.clip_norm) < 0:
            raise ConfigError("optimizer.warmup, weight_decay and clip_norm must not be negative")

    def schedule(self, total_steps: int) -> "Schedule":
        """The learning rate of a run of so many steps."""
        warmup = round(self.warmup * total_steps) if self.warmup < 1 else round(self.warmup)
        return Schedule(self.peak_lr, warmup, total_steps)

    def build(self, total_steps: int, frozen: tuple[str, ...] = ()) -> optax.GradientTransformation:
        """The whole update: clip, scale, decay, learning rate.

        `frozen` names top-level parameters that it leaves alone, keeping nothing for them; their gradients are 0, so
        that the norm of all, which a step gives it, is that of the others.
        """
        clip = clip_by_global_norm(self.clip_norm) if self.clip_norm else optax.identity()
        whole = optax.chain(
            clip,
            *SCALINGS[self.kind](self),
            scale_by_depth(self.layer_decay) if self.layer_decay < 1 else optax.identity(),
            scale_by_schedule(self.schedule(total_steps)),
        )
        if not frozen:
            return whole
        return optax.masked(whole, lambda tree: _map_paths(lambda path: path.split("/")[0] not in frozen, tree))


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then linear decay to 0 that counts from step 0.

    As in the original the rate drops to peak x (1 - warmup/total) where the warm-up ends.
    """

    peak: float
    warmup: int
    total: int

    @property
    def numbers(self) -> np.ndarray:
        """f32[3]: peak, warm-up, total; what a compiled step takes as an input."""
        return np.array([self.peak, self.warmup, self.total], np.float32)

    @property
    def short(self) -> str:
        """What there is to say of a run that ends before its warm-up does; "" of any other."""
        if self.warmup < self.total:
            return ""
        return (
            f"optimizer.warmup={self.warmup} but the run has {self.total} steps: its rate rises to "
            f"{self(self.total - 1):.2g} and never reaches optimizer.peak_lr={self.peak:g}; a warmup below 1 is a share"
        )

    def __call__(self, step: jax.Array | int) -> Any:  # noqa: ANN401 (a number for a number, else f32[])
        """The rate after `step` updates."""
        return _rate(step, self.peak, self.warmup, self.total)


def _rate(step: jax.Array | int, peak: Any, warmup: Any, total: Any) -> Any:  # noqa: ANN401 (numbers or f32[])
    xp: Any = np if isinstance(step, int) else jnp  # a number is for the log, which must not wait for a device
    decay = xp.maximum(0.0, 1.0 - step / total)
    return peak * xp.where(step < warmup, step / xp.maximum(1, warmup), decay)


def scale_by_schedule(own: Schedule) -> optax.GradientTransformationExtraArgs:
    """Updates times -rate; `schedule`, the numbers of another one, takes the place of `own`.

    What is given so may be an input of a compiled step, where `own` would be a constant of it.
    """

    def init(_: optax.Params) -> optax.ScaleByScheduleState:
        return optax.ScaleByScheduleState(np.zeros([], np.int32))

    def update(
        updates: optax.Updates,
        state: optax.ScaleByScheduleState,
        params: optax.Params | None = None,
        *,
        schedule: jax.Array | None = None,
        **_: Any,  # noqa: ANN401 (for other transformations)
    ) -> tuple[optax.Updates, optax.ScaleByScheduleState]:
        rate = _rate(state.count, *(own.numbers if schedule is None else schedule))
        updates = jax.tree.map(lambda u: u * -rate.astype(u.dtype), updates)
        return updates, optax.ScaleByScheduleState(optax.safe_increment(state.count))

    return optax.GradientTransformationExtraArgs(init, update)


def clip_by_global_norm(limit: float) -> optax.GradientTransformationExtraArgs:
    """Gradients times limit / norm where their norm is above the limit (Pascanu et al. 2013).

    `norm`, where it is known already, is not computed again. By one factor for all: a product is cheap enough for XLA
    to compute it where it is used, in each of the moments. The quotients of optax's clip it writes out first.
    """

    def update(
        updates: optax.Updates,
        state: optax.EmptyState,
        params: optax.Params | None = None,
        *,
        norm: jax.Array | None = None,
        **_: Any,  # noqa: ANN401 (for other transformations)
    ) -> tuple[optax.Updates, optax.EmptyState]:
        factor = jnp.minimum(1.0, limit / (global_norm(updates) if norm is None else norm))
        return jax.tree.map(lambda u: u * factor.astype(u.dtype), updates), state

    return optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)


def global_norm(tree: Any) -> jax.Array:  # noqa: ANN401 (any pytree)
    """f32[]: the norm of all arrays together, computed once whatever it is used for."""
    return jax.lax.optimization_barrier(optax.tree.norm(tree))


def decayed(path: str) -> bool:
    """Whether weight decay (and LAMB's trust ratio) applies to a parameter."""
    return not any(re.search(pattern, path) for pattern in NOT_DECAYED)


def decay_mask(params: Any) -> Any:  # noqa: ANN401 (any pytree)
    """True at every decayed parameter of a tree."""
    return _map_paths(decayed, params)


def _map_paths(function: Callable[[str], bool], tree: Any) -> Any:  # noqa: ANN401 (any pytree)
    return jax.tree_util.tree_map_with_path(lambda path, _: function(path_of(path)), tree)


def depth_below_head(path: str, layers: int) -> int:
    """0 for what a task adds, then the pooler, the layers from the top, the embeddings (as in ELECTRA)."""
    if path.startswith("encoder/embed/"):
        return layers + 2
    if layer := re.match(r"encoder/layer_(\d+)/", path):
        return layers + 1 - int(layer[1])
    return 1 if path.startswith(("encoder/", "pooler/")) else 0


def scale_by_depth(decay: float) -> optax.GradientTransformation:
    """Updates times decay to the power of how far below the head a parameter is."""

    def scale(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
        paths = [path_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(updates)]
        layers = len({layer[0] for path in paths if (layer := re.match(r"encoder/layer_\d+/", path))})
        return jax.tree_util.tree_map_with_path(
            lambda path, update: update * decay ** depth_below_head(path_of(path), layers), updates
        )

    return optax.stateless(scale)


class MomentState(NamedTuple):
    """First and second moments of the gradient."""

    mu: optax.Updates
    nu: optax.Updates


class AdamState(NamedTuple):
    """The same, and how many steps they are of."""

    count: jax.Array | np.ndarray  # type: ignore[assignment]  # hides tuple.count, as optax's does
    mu: optax.Updates
    nu: optax.Updates


def scale_by_adam(
    b1: float, b2: float, epsilon: float, *, corrected: bool = True
) -> optax.GradientTransformationExtraArgs:
    """Adam (Kingma & Ba 2015, algorithm 1), epsilon outside the root.

    Not `corrected` for the bias of the moments it is BERT's: without warm-up its first step would be
    (1-b1)/sqrt(1-b2) = 3.2 times the learning rate. Where `good` is false its state stays as it is. That is chosen here
    and not of the whole state afterwards: so the update is a function of the moments that are kept, and XLA computes in
    place where it would copy the old ones first (on a CPU, 4% of a small model's step).
    """

    def init(params: optax.Params) -> AdamState | MomentState:
        mu, nu = (jax.tree.map(lambda p: np.zeros(p.shape, p.dtype), params) for _ in range(2))
        return AdamState(np.zeros([], np.int32), mu, nu) if corrected else MomentState(mu, nu)

    def update(
        updates: optax.Updates,
        state: AdamState | MomentState,
        params: optax.Params | None = None,
        *,
        good: jax.Array | bool = True,
        **_: Any,  # noqa: ANN401 (for other transformations)
    ) -> tuple[optax.Updates, AdamState | MomentState]:
        def moment(old: optax.Updates, decay: float, order: int) -> optax.Updates:
            new = optax.tree.update_moment(updates, old, decay, order)
            return jax.tree.map(lambda n, o: jnp.where(good, n, o), new, old)

        state = state._replace(mu=moment(state.mu, b1, 1), nu=moment(state.nu, b2, 2))
        mu, nu = state.mu, state.nu
        if isinstance(state, AdamState):
            state = state._replace(count=jnp.where(good, optax.safe_increment(state.count), state.count))
            mu, nu = (optax.tree.bias_correction(m, b, state.count) for m, b in ((mu, b1), (nu, b2)))
        return jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + epsilon), mu, nu), state

    return optax.GradientTransformationExtraArgs(init, update)


def unless(good: jax.Array, new: Any, old: Any) -> Any:  # noqa: ANN401 (any pytree)
    """A tree of states or parameters where `good`, else the old one; `scale_by_adam` has chosen its own already."""
    own = (MomentState, AdamState)
    return jax.tree.map(
        lambda n, o: n if isinstance(n, own) else jnp.where(good, n, o), new, old, is_leaf=lambda x: isinstance(x, own)
    )


def _decay(config: Optimizer) -> optax.GradientTransformation:
    return optax.add_decayed_weights(config.weight_decay, mask=decay_mask)


def _bert_adam(config: Optimizer) -> tuple[optax.GradientTransformation, ...]:
    return scale_by_adam(config.b1, config.b2, config.epsilon, corrected=False), _decay(config)


def _adamw(config: Optimizer) -> tuple[optax.GradientTransformation, ...]:
    return scale_by_adam(config.b1, config.b2, config.epsilon), _decay(config)


def _lamb(config: Optimizer) -> tuple[optax.GradientTransformation, ...]:
    # You et al. 2019: layers excluded from decay are excluded from the trust ratio too, as in the reference code.
    return *_adamw(config), optax.masked(optax.scale_by_trust_ratio(), decay_mask)


SCALINGS: dict[str, Callable[[Optimizer], tuple[optax.GradientTransformation, ...]]] = {
    "bert-adam": _bert_adam,
    "adamw": _adamw,
    "lamb": _lamb,
}
