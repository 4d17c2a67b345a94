"""BERT and its pretraining heads once more, in plain numpy and float64, from the paper's formulas."""

import math

import numpy as np

erf = np.vectorize(math.erf)


def gelu(x):
    return 0.5 * x * (1 + erf(x / math.sqrt(2)))


def norm(x, p, epsilon=1e-12):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon) * p["scale"] + p["bias"]


def dense(x, p):
    return x @ p["kernel"] + p["bias"]


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def attention(x, sequence, p):
    """One row: f[L,D]; a token sees those of its own sequence."""
    q, k, v = (np.einsum("ld,dnh->nlh", x, p[n]["kernel"]) + p[n]["bias"][:, None] for n in ("query", "key", "value"))
    scores = q @ k.swapaxes(1, 2) / math.sqrt(q.shape[-1])
    scores[:, (sequence[:, None] != sequence) | (sequence == 0)] = -1e30
    return np.einsum("nlh,nhd->ld", softmax(scores) @ v, p["out"]["kernel"]) + p["out"]["bias"]


def encode(params, batch, row):
    """Hidden states f[L,D] of a row after the embeddings and after every layer."""
    p = params["encoder"]
    tables = ("tokens", "types", "positions")
    layers = [norm(sum(p["embed"][n]["table"][batch[n][row]] for n in tables), p["embed"]["norm"])]
    for i in range(sum(name.startswith("layer_") for name in p)):
        q, x = p[f"layer_{i}"], layers[-1]
        x = norm(x + attention(x, batch["sequence"][row], q["attn"]), q["attn_norm"])
        layers.append(norm(x + dense(gelu(dense(x, q["mlp"]["in"])), q["mlp"]["out"]), q["mlp_norm"]))
    return layers


def pretraining_loss(params, batch):
    """Masked-language-model loss plus next-sentence loss, each a mean over its labels."""
    mlm, nsp = [], []
    for row in range(len(batch["tokens"])):
        hidden = encode(params, batch, row)[-1]
        x = norm(gelu(dense(hidden[batch["masked_positions"][row]], params["mlm"]["transform"])), params["mlm"]["norm"])
        chance = softmax(x @ params["encoder"]["embed"]["tokens"]["table"].T + params["mlm"]["bias"])
        slots = zip(chance, batch["masked_targets"][row], batch["masked_weights"][row], strict=True)
        mlm += [-math.log(c[target]) for c, target, weight in slots if weight]
        pooled = np.tanh(dense(hidden[batch["first_tokens"][row]], params["pooler"]))
        chance = softmax(dense(pooled, params["nsp"]))
        nsp += [-math.log(c[label]) for c, label in zip(chance, batch["next_labels"][row], strict=True)]
    return np.mean(mlm), np.mean(nsp)
