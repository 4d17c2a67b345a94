"""Losses as (total, weight) metrics."""

import jax
import jax.numpy as jnp

from bertjax.contracts import Metrics


def classification(name: str, logits: jax.Array, labels: jax.Array, weights: jax.Array) -> Metrics:
    """Cross-entropy and accuracy of f32[..., C] logits at i32[...] labels, each label counted `weights` f32[...].

    Right is a label that no other exceeds: the logsumexp has the greatest logit already, an argmax takes as long again.
    """
    total = jnp.sum(weights)
    picked = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    loss = jax.nn.logsumexp(logits, axis=-1) - picked
    right = (picked >= jnp.max(logits, axis=-1)).astype(jnp.float32)
    return {f"{name}_loss": (jnp.sum(loss * weights), total), f"{name}_accuracy": (jnp.sum(right * weights), total)}


def regression(name: str, values: jax.Array, labels: jax.Array, weights: jax.Array) -> Metrics:
    """Squared error of f32[...] values against f32[...] labels."""
    return {f"{name}_loss": (jnp.sum(jnp.square(values - labels) * weights), jnp.sum(weights))}
