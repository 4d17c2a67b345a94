"""keras-hub's BertMaskedLM on JAX, which gathers masked positions as we do; it has no NSP."""

import os

os.environ |= {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}

import keras
import keras_hub
import numpy as np
from serve import Spec, serve


def make(spec: Spec):  # noqa: ANN201 (a function without arguments)
    """One training step, or one pass of the encoder."""
    m, batch = spec["model"], dict(np.load(spec["batch"]))
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=m["vocab_size"],
        num_layers=m["layers"],
        num_heads=m["heads"],
        hidden_dim=m["width"],
        intermediate_dim=m["mlp_width"],
    )
    inputs = {
        "token_ids": batch["tokens"],
        "segment_ids": batch["types"],
        "padding_mask": (batch["sequence"] > 0).astype(np.int32),
    }
    if spec["what"] == "inference":
        return lambda: backbone.predict_on_batch(inputs)
    model = keras_hub.models.BertMaskedLM(backbone=backbone, preprocessor=None)
    model.compile(
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        optimizer=keras.optimizers.AdamW(1e-4, weight_decay=0.01, clipnorm=1.0),
        jit_compile=True,
    )
    inputs["mask_positions"] = batch["masked_positions"]
    return lambda: model.train_on_batch(inputs, batch["masked_targets"], batch["masked_weights"])


if __name__ == "__main__":
    serve(make)
