"""transformers on torch: BertForPreTraining with sdpa attention and fused AdamW, as its Trainer would run it."""

import os

os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import numpy as np
import torch
from serve import Spec, serve, their_sizes
from torch.nn.functional import cross_entropy
from transformers import BertConfig, BertForPreTraining, BertModel


def make(spec: Spec):  # noqa: ANN201 (a function without arguments)
    """One training step, or one pass of the encoder, perhaps compiled."""
    torch.set_num_threads(len(spec["cores"]))
    batch = np.load(spec["batch"])
    config = BertConfig(**their_sizes(spec), attn_implementation="sdpa")
    given = {"input_ids": "tokens", "token_type_ids": "types", "attention_mask": "sequence"}
    inputs = {theirs: torch.from_numpy(batch[ours]).long() for theirs, ours in given.items()}
    if spec["what"] == "inference":
        encoder = BertModel(config, add_pooling_layer=False).eval()
        encoder = torch.compile(encoder) if spec.get("compiled") else encoder

        def encode() -> None:
            with torch.no_grad():
                encoder(**inputs)

        return encode
    model = BertForPreTraining(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01, fused=True)
    forward = torch.compile(model) if spec.get("compiled") else model
    rows, slots = np.nonzero(batch["masked_weights"])
    places, targets = batch["masked_positions"][rows, slots], batch["masked_targets"][rows, slots]
    labels = np.full(batch["tokens"].shape, -100)
    labels[rows, places] = targets
    answers = {
        "labels": torch.from_numpy(labels).long(),
        "next_sentence_label": torch.from_numpy(batch["next_labels"][:, 0]).long(),
    }
    masked, wanted = (torch.from_numpy(rows), torch.from_numpy(places)), torch.from_numpy(targets).long()

    def gathered() -> torch.Tensor:
        """The same loss, with the MLM head at the masked positions alone."""
        hidden, pooled = model.bert(**inputs)[:2]
        logits, follows = model.cls(hidden[masked], pooled)
        return cross_entropy(logits, wanted) + cross_entropy(follows, answers["next_sentence_label"])

    def step() -> None:
        loss = gathered() if spec.get("gathered") else forward(**inputs, **answers).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


if __name__ == "__main__":
    serve(make)
