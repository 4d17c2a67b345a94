"""config.json: the family and sizes of a model, the names of its labels."""

import re
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from bertjax import registry
from bertjax.contracts import ModelConfig
from bertjax.data.vocabulary_files import read_object
from bertjax.errors import ConfigError, DataError, closest

FILE = "config.json"
TRANSFORMERS = "4.57.1"  # whose format is written; from 4.30 to 5 all read it
ACTIVATIONS = {  # theirs -> ours; the first of each of ours is what is written
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "relu": "relu",
    "gelu_python": "gelu",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
SAME_AS = {"xlm-roberta": "roberta", "camembert": "roberta"}  # by another name, with another tokenizer
ASSUMED = {"layer_norm_eps": 1e-12, "initializer_range": 0.02}  # where old files leave them out
LARGEST = {"layers": 1_000, "vocab_size": 10_000_000}  # of others, a million: no model is larger, a mistake may be


class Described(NamedTuple):
    """What a config.json says."""

    family: ModuleType
    model: ModelConfig
    architecture: str  # the class that was saved; "" where it is not named
    labels: tuple[str, ...]  # () where they are not named
    task: str  # "" where it is not named
    head_dropout: float
    unused_positions: int  # rows at the beginning of their position table
    settings: tuple[str, ...]  # of the task, as `tasks.find` takes them
    tuned: dict[str, float]  # on the dev set of the task, as `Task.tune` gives it
    columns: dict[str, Any]  # of the user's own files, where the task is on these


def read(file: Path) -> Described:
    """Reads and checks a config.json, or Google's bert_config.json."""
    data = read_object(file, FILE)
    if file.name != FILE and data.get("hidden_act") == "gelu":
        data["hidden_act"] = "gelu_new"  # what google-research/bert computes (modeling.py); converters made it "gelu"
    family = _family(file, data)
    for key, value in family.HF_ONLY.items():
        if data.get(key, value) != value:
            raise DataError(f"{file}: {key} is {data[key]!r}; only {value!r} is known here")
    values = {ours: _value(file, data, theirs, ours) for ours, theirs in family.HF_CONFIG.items()}
    unused = _unused_positions(file, data, family)
    values["max_length"] -= unused
    try:
        model = family.Config(**values)
    except ConfigError as error:
        raise DataError(f"{file}: {error} (in this file: {family.HF_CONFIG})") from None
    dropout, params = data.get("classifier_dropout"), _task_params(data)
    settings, columns = params.get("settings"), params.get("columns")
    return Described(
        family,
        model,
        architecture=_architecture(data),
        labels=_labels(file, data),
        task=data["finetuning_task"] if isinstance(data.get("finetuning_task"), str) else "",
        head_dropout=dropout if isinstance(dropout, float) and 0 <= dropout < 1 else values["dropout"],
        unused_positions=unused,
        settings=tuple(map(str, settings)) if isinstance(settings, list) else (),
        tuned={k: float(v) for k, v in params.items() if type(v) in (int, float)},
        columns=columns if isinstance(columns, dict) else {},
    )


def _family(file: Path, data: dict[str, Any]) -> ModuleType:
    known = {name: registry.find("models", name) for name in registry.names("models")}
    known = {name: family for name, family in known.items() if hasattr(family, "HF_NAMES")}
    name = data.get("model_type", "bert")  # the first files did not say it
    name = SAME_AS.get(name, name) if isinstance(name, str) else name
    if not isinstance(name, str) or name not in known:
        raise DataError(f"{file}: model_type {name!r} is not known here{closest(str(name), [*known, *SAME_AS])}")
    return known[name]


def _architecture(data: dict[str, Any]) -> str:
    names = data.get("architectures")
    name = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""
    return re.sub("^(XLMRoberta|Camembert)", "Roberta", name)


def _value(file: Path, data: dict[str, Any], theirs: str, ours: str) -> Any:  # noqa: ANN401 (an int, float or str)
    value = data.get(theirs, ASSUMED.get(theirs))
    if value is None:
        raise DataError(f"{file}: {theirs} is missing; get the file anew")
    if ours == "activation":
        if not isinstance(value, str) or value not in ACTIVATIONS:
            raise DataError(f"{file}: {theirs} {value!r} is not known here{closest(str(value), ACTIVATIONS)}")
        return ACTIVATIONS[value]
    if theirs in ASSUMED or ours.endswith("dropout"):
        if type(value) not in (int, float) or not 0 <= value <= 1:
            raise DataError(f"{file}: {theirs} is {value!r}, not a number from 0 to 1; get the file anew")
        return float(value)
    largest = LARGEST.get(ours, 1_000_000)
    if type(value) is not int or not 1 <= value <= largest:
        raise DataError(f"{file}: {theirs} is {value!r}, not a whole number from 1 to {largest:,}; get the file anew")
    return value


def _unused_positions(file: Path, data: dict[str, Any], family: ModuleType) -> int:
    padding = data.get("pad_token_id", 1)
    if family.HF_POSITIONS_AFTER_PADDING and (type(padding) is not int or not 0 <= padding < 1_000):
        raise DataError(f"{file}: pad_token_id is {padding!r}, but positions are counted from it; get the file anew")
    return unused_positions(family, padding)


def _labels(file: Path, data: dict[str, Any]) -> tuple[str, ...]:
    table = data.get("id2label")
    if not table:
        return ()
    wanted = [str(i) for i in range(len(table))]
    if not isinstance(table, dict) or not all(isinstance(table.get(i), str) for i in wanted):
        raise DataError(f"{file}: id2label is not a name for each of 0 to {len(table) - 1}; correct it")
    labels = tuple(table[i] for i in wanted)
    if len(set(labels)) < len(labels):
        raise DataError(f"{file}: id2label has a name twice; give each class its own")
    return () if labels == tuple(f"LABEL_{i}" for i in wanted) else labels  # the names of what has none


def _task_params(data: dict[str, Any]) -> dict[str, Any]:
    tables = data.get("task_specific_params")
    table = tables.get(data.get("finetuning_task")) if isinstance(tables, dict) else None
    return table if isinstance(table, dict) else {}


def describe(model: ModelConfig, architecture: str, pad_id: int) -> dict[str, Any]:
    """The part of a config.json that says what a model is."""
    name = registry.name_of("models", model)
    family = registry.find("models", name)
    ours = asdict(model)  # type: ignore[call-overload]
    spelled = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}
    sizes = {theirs: ours[name] for name, theirs in family.HF_CONFIG.items()}
    sizes["hidden_act"] = spelled[ours["activation"]]
    sizes["max_position_embeddings"] += unused_positions(family, pad_id)
    for key, value in family.HF_ONLY.items():
        if sizes.get(key, value) != value:
            raise ConfigError(f"{name} of transformers has only {key} {value!r}, not {sizes[key]!r}")
    return {
        "architectures": [architecture],
        "model_type": name,
        **sizes,
        "pad_token_id": pad_id,
        "position_embedding_type": "absolute",
        "torch_dtype": "float32",
        "transformers_version": TRANSFORMERS,
    }


def unused_positions(family: ModuleType, pad_id: int) -> int:
    """Rows that their position table has before the first that is used."""
    return pad_id + 1 if family.HF_POSITIONS_AFTER_PADDING else 0
