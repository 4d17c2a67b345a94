"""Whether a command goes on with a run or would make another one of it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from bertjax.config import SPELLED
from bertjax.contracts import ModelConfig
from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import ConfigError

Verdict = Literal["must match", "warn", "may change"]

# What becomes of a run that is taken up again with another value. A key that is not here has the verdict of the one
# that holds it; all keys of the configs must have one.
VERDICTS: dict[str, Verdict] = {
    **dict.fromkeys(["steps", "batch_size", "length", "later_phases", "packing", "seed"], "must match"),
    **dict.fromkeys(["data_weights", "model", "objective", "optimizer"], "must match"),
    # of fine-tuning
    **dict.fromkeys(["task", "task_settings", "source", "columns", "encoder", "train_rows", "epochs"], "must match"),
    **dict.fromkeys(["buckets", "dropout", "class_weights", "new_layers", "frozen", "features"], "must match"),
    "patience": "must match",
    # the same numbers up to rounding
    **dict.fromkeys(["micro_batches", "mesh", "remat", "attention"], "warn"),
    # a folder may have moved: what is in it must be the same, of which the hashes tell
    **dict.fromkeys(["data", "out"], "may change"),
    **dict.fromkeys(["workers", "baseline", "profile", "guard", "grace", "hang_timeout"], "may change"),
    **dict.fromkeys(["log_every", "eval_every", "eval_batches", "save_every", "save_sync", "keep_last"], "may change"),
    # of a suite, not of its runs
    **dict.fromkeys(["seeds", "grid", "from_mnli"], "may change"),
}


def verdict(key: str) -> Verdict:
    """Of a key like optimizer.peak_lr."""
    while key not in VERDICTS and "." in key:
        key = key.rpartition(".")[0]
    return VERDICTS[key]


def check_resume(old: object, new: object, run: str) -> list[str]:
    """What may be said of two configs, the stored one and the one given; raises where they are of different runs.

    Every key is named, with its old and new value.
    """
    changed = [(key, f"{SPELLED.get(key, key)}: was {was!r}, now {now!r}") for key, was, now in _differences(old, new)]
    wrong = [text for key, text in changed if verdict(key) == "must match"]
    if wrong:
        listed = "\n  ".join(wrong)
        raise ConfigError(
            f"{run} was begun with another configuration:\n  {listed}\n"
            "Give the old values to resume it, or another --out to begin anew."
        )
    return [f"{text}: results are the same up to rounding" for key, text in changed if verdict(key) == "warn"]


def _differences(old: object, new: object, prefix: str = "") -> list[tuple[str, object, object]]:
    if type(old) is not type(new) or not hasattr(old, "__dataclass_fields__"):
        return [] if old == new else [(prefix.rstrip("."), old, new)]
    return [
        found
        for f in fields(old)  # type: ignore[arg-type]
        for found in _differences(getattr(old, f.name), getattr(new, f.name), f"{prefix}{f.name}.")
    ]


def fingerprint(tokenizer: Tokenizer, model: ModelConfig, data: str, versions: Mapping[str, str]) -> dict[str, Any]:
    """What makes a run itself beside its config; `data` is a hash."""
    stored = tokenizer.to_json()
    pieces = {name: value for name, value in stored.items() if name in ("vocabulary", "merges", "model")}
    return {
        "vocabulary": hashlib.sha256(json.dumps(pieces, sort_keys=True).encode()).hexdigest(),
        "normalisation": {name: value for name, value in stored.items() if name not in pieces},
        "model": model,
        "data": data,
        "versions": versions,
    }


def check_fingerprint(old: Mapping[str, Any], new: Mapping[str, Any], run: Path) -> list[str]:
    """What may be said of two fingerprints, that of a checkpoint and that of now; raises where they are of two runs."""
    mend = f"prepare the data with --tokenizer {run}/tokenizer, or give another --out"
    if old["vocabulary"] != new["vocabulary"]:
        raise ConfigError(f"{run} was trained with another vocabulary than this; {mend}")
    if old["normalisation"] != new["normalisation"]:
        raise ConfigError(
            f"{run} was trained with this vocabulary, but on text cut up in another way: {old['normalisation']}, "
            f"not {new['normalisation']}; {mend}"
        )
    if other := _differences(old["model"], new["model"], "model."):
        listed = "; ".join(f"{key}: was {was!r}, now {now!r}" for key, was, now in other)
        raise ConfigError(
            f"{run} was begun with another model ({listed}): has what --from names changed? Give another --out"
        )
    if old["data"] != new["data"]:
        raise ConfigError(f"{run} was begun with other data than what --data holds now; give that, or another --out")
    return [
        f"{name}: was {old['versions'][name]}, now {version}: results may differ in their rounding"
        for name, version in new["versions"].items()
        if version != old["versions"].get(name, version)
    ]
