"""`bertjax convert`: a run to a Hugging Face directory or the other way, and proof that nothing changed on the way."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bertjax.card import card
from bertjax.config import Finetune
from bertjax.contracts import Batch, Objective, Params
from bertjax.errors import ConfigError
from bertjax.hf import read as hf
from bertjax.hf.write import write
from bertjax.jsonio import to_json, write_json
from bertjax.nn.places import gather_tokens
from bertjax.objectives import mlm, supervised
from bertjax.saved import Imported, SavedRun, open_run, versions
from bertjax.tasks._columns import Columns
from bertjax.train.log import answers
from bertjax.train.mesh import MeshConfig, make_mesh, path_of
from bertjax.train.saver import Saver
from bertjax.train.state import TrainState
from bertjax.use import Convert

ALLOWED = 1e-5  # between any output before and after, in float32


def convert(config: Convert) -> None:
    """Writes `config.to` whole, with its parity.json, or not at all."""
    to = Path(config.to).absolute()
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise ConfigError(f"--to {config.to}: is there already and not an empty folder; give another")
    saved = open_run(config.source)
    partial = to.with_name(f".{to.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    if hf.is_directory(saved.path):
        to_run(saved, partial)
    else:
        to_directory(saved, partial, name=to.name)
    parity = compare(saved, open_run(partial))
    about = {"from": config.source, "to": config.to, **parity, "versions": versions()}
    write_json(partial / "parity.json", about)
    if not parity["equal"]:
        raise RuntimeError(f"{partial} is not what {config.source} is: see parity.json in it")
    os.replace(partial, to)
    if unused := parity["parts_without_use"]:
        answers.print(f"convert: nothing here has a use for {', '.join(unused)} of {config.source}: not compared")
    worst = max(parity["max_difference"].values())
    answers.print(
        f"convert: {config.to}: {parity['parameters']:,} parameters, largest difference of any output {worst:g}"
    )


def to_run(saved: SavedRun, folder: Path) -> None:
    """A directory of another program as a run folder: one checkpoint with all parts the weights have."""
    config = {"command": saved.command, "config": to_json(saved.config), "model": to_json(saved.model)}
    write_json(folder / "config.json", {**config, "versions": versions()})
    saved.tokenizer.save(folder / "tokenizer")
    constant = {**config, "tokenizer": saved.tokenizer.to_json(), "data_hash": ""}
    saver = Saver(folder, keep_last=1, best="-loss", constant=constant)
    zero = jnp.zeros((), jnp.int32)
    state = TrainState(zero, saved.all_params(make_mesh(MeshConfig(data=1))), {}, zero)
    try:
        saver.save(state, loader=(), log={}, figures=None)
        saver.wait()
    finally:
        saver.close()


def to_directory(saved: SavedRun, folder: Path, *, name: str) -> None:
    """A run as a Hugging Face directory, with a model card."""
    if isinstance(saved.config, Finetune) and saved.config.features != "last":
        raise ConfigError(f"{saved.path} has a head on {saved.config.features}, which no head of Hugging Face sees")
    params = saved.params(saved.objective(), make_mesh(MeshConfig(data=1)))
    length = saved.config.length if isinstance(saved.config, Finetune | Imported) else saved.model.max_length
    architecture = write(
        folder,
        model=saved.model,
        tokenizer=saved.tokenizer,
        params=params,
        length=length,
        about=_labels(saved),
    )
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    (folder / "README.md").write_text(card(saved, name, architecture, count), "utf-8")


def _labels(saved: SavedRun) -> dict[str, Any]:
    """What config.json says of a task's head."""
    config = saved.config
    objective = saved.objective()
    if not isinstance(config, Finetune | Imported) or not isinstance(objective, supervised.Supervised):
        return {}
    about: dict[str, Any] = {"finetuning_task": config.task, "classifier_dropout": objective.config.dropout}
    measured = saved.task().metrics if isinstance(config, Finetune) else ()
    params: dict[str, Any] = {name: value for name, value in saved.figures.items() if name not in measured}
    if config.task_settings:
        params["settings"] = list(config.task_settings)
    if config.columns != Columns():
        params["columns"] = to_json(config.columns)
    if params:
        about["task_specific_params"] = {config.task: params}
    classes, head = objective.config.classes, objective.config.head
    if head in ("span", "choose"):
        return about
    if head == "classify":
        about["problem_type"] = "single_label_classification" if classes else "regression"
    labels = config.labels if isinstance(config, Imported) else saved.task().labels
    labels = labels or tuple(f"LABEL_{row}" for row in range(classes or 1))
    return about | {
        "id2label": {str(row): label for row, label in enumerate(labels)},
        "label2id": {label: row for row, label in enumerate(labels)},
    }


def compare(before: SavedRun, after: SavedRun) -> dict[str, Any]:
    """Both on the same rows: outputs of every head, parameters bit by bit, ids of the tokenizers."""
    mesh = make_mesh(MeshConfig(data=1))
    found = []
    for saved in (before, after):
        saved = replace(saved, model=replace(saved.model, dtype="float32"))  # type: ignore[type-var]
        objective = saved.objective()
        params = saved.params(objective, mesh)
        found.append((params, outputs(objective, params, sample(saved))))
    (old, made), (new, made_again) = found
    differences = {name: float(np.abs(made[name] - made_again[name]).max()) for name in made}
    bits = jax.tree.map(lambda a, b: np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True), dict(old), dict(new))
    unequal = [path_of(path) for path, same in jax.tree_util.tree_leaves_with_path(bits) if not same]
    tokenizers = before.tokenizer.hash == after.tokenizer.hash
    return {
        "equal": max(differences.values()) <= ALLOWED and not unequal and tokenizers,
        "max_difference": differences,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(old)),
        "arrays_not_bit_equal": unequal,
        "tokenizer_equal": tokenizers,
        "parts": sorted(old),
        "parts_without_use": sorted(set(before.parts) - set(old)),
    }


def sample(saved: SavedRun, rows: int = 4, slots: int = 8) -> dict[str, np.ndarray]:
    """Random rows over the whole vocabulary, half of them padded, of both types."""
    rng = np.random.default_rng(0)
    length = min(64, saved.model.max_length)
    place = np.broadcast_to(np.arange(length, dtype=np.int32), (rows, length))
    real = place < np.where(np.arange(rows) % 2, length // 2, length)[:, None]
    return {
        "tokens": rng.integers(0, saved.model.vocab_size, (rows, length)).astype(np.int32),
        "types": np.where(place < length // 4, 0, saved.model.type_count - 1).astype(np.int32),
        "sequence": real.astype(np.int32),
        "positions": place,
        "first_tokens": np.zeros((rows, 1), np.int32),
        "masked_positions": np.sort(rng.integers(0, length // 2, (rows, slots))).astype(np.int32),
    }


def outputs(objective: Objective, params: Params, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the encoder and every head give for real tokens, without dropout."""

    def everything(module: Any, batch: Batch) -> dict[str, jax.Array]:  # noqa: ANN401 (an Objective)
        encoded, pooled = module.encode(batch)
        made = {"last_hidden_state": encoded.hidden * batch["sequence"][..., None]}
        if pooled is not None:
            made["pooler_output"] = pooled
        if isinstance(module, mlm.Mlm):
            made["mlm_logits"] = module.mlm_logits(gather_tokens(encoded.hidden, batch["masked_positions"]))
        if isinstance(module, mlm.MlmNsp):
            made["nsp_logits"] = module.nsp_logits(gather_tokens(encoded.hidden, batch["first_tokens"]))
        if isinstance(module, supervised.Choose):  # every two rows are the choices of one
            made["logits"] = module.logits({n: x.reshape(-1, 2, x.shape[-1]) for n, x in batch.items()})
        elif isinstance(module, supervised.Supervised):
            logits = module.logits(batch)
            made["logits"] = logits if logits.ndim == 2 else logits * batch["sequence"][..., None]
        return made

    return jax.device_get(jax.jit(lambda p, b: objective.apply({"params": p}, b, method=everything))(params, batch))
