"""Fine-tuning step by step beside torch: losses, norms of the gradient and the model that comes out."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import TINY
from hf_directories import export
from torch_models import load, rows

from bertjax.objectives import supervised
from bertjax.saved import open_run
from bertjax.train.mesh import MeshConfig, make_mesh, put_batch
from bertjax.train.optim import Optimizer
from bertjax.train.state import init_state
from bertjax.train.step import make_train_step

STEPS, RATE, WARMUP, DECAY, CLIP = 20, 1e-2, 0.2, 0.1, 0.02
HEADS = {
    "BertForSequenceClassification": ("classify", 3),
    "BertForTokenClassification": ("tag", 3),
    "BertForQuestionAnswering": ("span", 0),
}


def batches(head):
    for seed in range(STEPS):
        batch, rng = rows(TINY, count=8, seed=seed), np.random.default_rng(seed)
        del batch["masked_positions"]
        length = batch["tokens"].shape[1]
        if head == "span":  # torch counts padding among the places of an answer, so there is none
            batch["sequence"] = np.ones_like(batch["sequence"])
        answers = {
            "classify": {"labels": rng.integers(0, 3, 8)},
            "tag": {"tags": np.where(batch["sequence"] > 0, rng.integers(-1, 3, (8, length)), -1)},
            "span": {"spans": rng.integers(0, length, (8, 2))},
        }[head]
        yield batch | {k: v.astype(np.int32) for k, v in answers.items()} | {"weights": np.ones(8, np.float32)}


def ours(folder, head, classes):
    saved, mesh = open_run(folder), make_mesh(MeshConfig(data=1))
    objective = supervised.Config(classes, 0.0, head).build(saved.model)
    optimizer = Optimizer("adamw", RATE, WARMUP, weight_decay=DECAY, clip_norm=CLIP).build(STEPS)
    state = replace(init_state(objective, optimizer, seed=0, mesh=mesh), params=saved.params(objective, mesh))
    step, told = make_train_step(objective, optimizer, mesh), []
    for batch in batches(head):
        state, metrics = step(state, put_batch(batch, mesh))
        told.append([float(total / weight) for total, weight in (metrics["task_loss"], metrics["grad_norm"])])
    return told, state.params["encoder"]["embed"]["tokens"]["table"]


def theirs(folder, architecture):
    model = load(folder, architecture).train()
    kinds = {True: [], False: []}
    for name, parameter in model.named_parameters():
        kinds["LayerNorm" in name or name.endswith("bias")].append(parameter)
    groups = [{"params": kinds[False], "weight_decay": DECAY}, {"params": kinds[True], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, eps=1e-6)
    warmup = round(WARMUP * STEPS)
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: n / warmup if n < warmup else 1 - n / STEPS)
    names = {"input_ids": "tokens", "token_type_ids": "types", "attention_mask": "sequence"}
    told = []
    for batch in batches(HEADS[architecture][0]):
        tensors = {name: torch.from_numpy(np.ascontiguousarray(array)).long() for name, array in batch.items()}
        inputs = {name: tensors[mine] for name, mine in names.items()}
        if "spans" in batch:
            ends = dict(zip(("start_positions", "end_positions"), tensors["spans"].T, strict=True))
        else:
            labels = tensors["labels"] if "labels" in batch else tensors["tags"]
            ends = {"labels": torch.where(labels < 0, -100, labels)}
        loss = model(**inputs, **ends).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        rates.step()
        optimizer.zero_grad()
        told.append([float(loss.detach()), float(norm)])
    return told, model.bert.embeddings.word_embeddings.weight.detach().numpy()


@pytest.mark.parametrize("architecture", HEADS)
def test_every_step_is_that_of_torch(tmp_path, architecture):
    head, classes = HEADS[architecture]
    export(tmp_path, architecture, replace(TINY, dropout=0.0, attention_dropout=0.0), classifier_dropout=0.0)
    (told, table), (expected, their_table) = ours(tmp_path, head, classes), theirs(tmp_path, architecture)
    assert expected[0][1] > CLIP and np.ptp(expected, axis=0)[0] > 0.02
    np.testing.assert_allclose(told, expected, rtol=1e-3)
    np.testing.assert_allclose(table, their_table, atol=1e-3)
