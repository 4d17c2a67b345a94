"""The Flax models that transformers had until 4.57, with the loss of its run_mlm_flax.py, and NSP."""

import os

os.environ |= {"JAX_PLATFORMS": "cpu", "TRANSFORMERS_VERBOSITY": "error"}

import jax
import jax.numpy as jnp
import numpy as np
import optax
from serve import Spec, serve, their_sizes
from transformers import BertConfig, FlaxBertForPreTraining


def make(spec: Spec):  # noqa: ANN201 (a function without arguments)
    """One training step, or one pass of the encoder."""
    batch = {name: jnp.asarray(x) for name, x in np.load(spec["batch"]).items()}
    config = BertConfig(**their_sizes(spec))
    model = FlaxBertForPreTraining(config, seed=0)
    inputs = {
        "input_ids": batch["tokens"],
        "token_type_ids": batch["types"],
        "attention_mask": (batch["sequence"] > 0).astype(jnp.int32),
    }
    if spec["what"] == "inference":
        encode = jax.jit(lambda p, i: model(**i, params=p, train=False, output_hidden_states=True).hidden_states[-1])
        return lambda: jax.block_until_ready(encode(model.params, inputs))
    rows = jnp.arange(len(batch["tokens"]))[:, None]
    targets = jnp.zeros_like(batch["tokens"]).at[rows, batch["masked_positions"]].set(batch["masked_targets"])
    masked = jnp.zeros(targets.shape).at[rows, batch["masked_positions"]].max(batch["masked_weights"])
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-4, weight_decay=0.01))

    def loss(params, key):  # noqa: ANN001, ANN202 (arrays)
        out = model(**inputs, params=params, dropout_rng=key, train=True)
        one_hot = jax.nn.one_hot(targets, config.vocab_size)
        mlm = optax.softmax_cross_entropy(out.prediction_logits, one_hot) * masked
        nsp = optax.softmax_cross_entropy_with_integer_labels(out.seq_relationship_logits, batch["next_labels"][:, 0])
        return mlm.sum() / masked.sum() + nsp.mean()

    def update(params, state, key):  # noqa: ANN001, ANN202 (arrays)
        key, used = jax.random.split(key)
        value, gradients = jax.value_and_grad(loss)(params, used)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, key, value

    step = jax.jit(update, donate_argnums=(0, 1))
    now = (model.params, optimizer.init(model.params), jax.random.key(0))

    def one() -> None:
        nonlocal now
        *now, _ = jax.block_until_ready(step(*now))

    return one


if __name__ == "__main__":
    serve(make)
