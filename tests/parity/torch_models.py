"""Transformers' models, and what ours and theirs give for the same rows."""

import numpy as np
import torch
import transformers

from bertjax.convert import outputs
from bertjax.saved import open_run
from bertjax.train.mesh import MeshConfig, make_mesh


def load(folder, architecture):
    """The model that transformers makes of a directory, with nothing missing and nothing left over."""
    kind = getattr(transformers, architecture)
    model, info = kind.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    problems = {name: info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys") if info[name]}
    assert not problems, problems
    return model.eval()


def rows(model, *, count=4, length=24, slots=5, seed=0):
    """A batch as ours take it; every second row is half padding."""
    rng = np.random.default_rng(seed)
    place = np.broadcast_to(np.arange(length, dtype=np.int32), (count, length))
    real = place < np.where(np.arange(count) % 2, length // 2, length)[:, None]
    return {
        "tokens": rng.integers(5, model.vocab_size, (count, length)).astype(np.int32),
        "types": (place * model.type_count // length).astype(np.int32),
        "sequence": real.astype(np.int32),
        "positions": place,
        "first_tokens": np.zeros((count, 1), np.int32),
        "masked_positions": rng.integers(0, length // 2, (count, slots)).astype(np.int32),
    }


def ours(folder, batch):
    """Outputs of every head of a run or directory."""
    saved = open_run(folder)
    objective = saved.objective()
    return outputs(objective, saved.params(objective, make_mesh(MeshConfig(data=1))), batch)


@torch.no_grad()
def theirs(model, batch):
    """The same outputs by the same names."""
    ids = {
        "input_ids": torch.tensor(batch["tokens"]).long(),
        "token_type_ids": torch.tensor(batch["types"]).long(),
        "attention_mask": torch.tensor(batch["sequence"]).long(),
    }
    if not type(model).__name__.startswith("Bert"):
        del ids["token_type_ids"]
    real = ids["attention_mask"][..., None]
    base = getattr(model, model.base_model_prefix, model)(**ids)
    made = {"last_hidden_state": base.last_hidden_state * real}
    if getattr(base, "pooler_output", None) is not None:
        made["pooler_output"] = base.pooler_output
    if hasattr(model, model.base_model_prefix):
        made |= heads(model, ids, torch.tensor(batch["masked_positions"]).long(), real)
    return {name: array.numpy() for name, array in made.items()}


def heads(model, ids, places, real):
    """What the class of a model adds to its base."""
    if type(model).__name__.endswith("MultipleChoice"):
        return {"logits": model(**{name: x.reshape(-1, 2, x.shape[-1]) for name, x in ids.items()}).logits}
    found = model(**ids)
    if "start_logits" in found:
        return {"logits": torch.stack([found.start_logits, found.end_logits], dim=-1) * real}
    if type(model).__name__.endswith("TokenClassification"):
        return {"logits": found.logits * real}
    vocabulary = found.get("prediction_logits", found.get("logits"))
    if vocabulary.ndim == 2:
        name = "nsp_logits" if type(model).__name__.endswith("NextSentencePrediction") else "logits"
        return {name: vocabulary}
    made = {"mlm_logits": torch.take_along_dim(vocabulary, places[..., None], dim=1)}
    if "seq_relationship_logits" in found:
        made["nsp_logits"] = found["seq_relationship_logits"]
    return made


def check(folder, model, batch):
    """Every output of ours is theirs to 1e-5; gives the names."""
    a, b = ours(folder, batch), theirs(model, batch)
    a = {name: value[:, 0] if name == "nsp_logits" else value for name, value in a.items()}
    for name in a.keys() & b.keys():
        np.testing.assert_allclose(a[name], b[name], rtol=0, atol=1e-5, err_msg=name)
    return a.keys() & b.keys()
