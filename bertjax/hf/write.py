"""Parameters, model and tokenizer -> a Hugging Face directory."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save_file

from bertjax import registry
from bertjax.contracts import ModelConfig, Params
from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import ConfigError
from bertjax.hf import config_json, names, tensors, tokenizer_files
from bertjax.train.mesh import path_of


def write(
    folder: Path, *, model: ModelConfig, tokenizer: Tokenizer, params: Params, length: int, about: Mapping[str, Any]
) -> str:
    """Writes model.safetensors, config.json with `about` in it, and the tokenizer's files; gives the class's name."""
    name = registry.name_of("models", model)
    family = registry.find("models", name)
    if not hasattr(family, "HF_NAMES"):
        raise ConfigError(f"the family {name} has no names for Hugging Face's files: give it HF_NAMES, as in bert.py")
    architecture = names.architecture_of(family, set(params) - {"encoder"})
    if not architecture:
        raise ConfigError(f"transformers has no class for a {name} with {', '.join(sorted(params))}")
    table = names.head_names(family, architecture)
    prefix = family.HF_PREFIX if architecture == list(family.HF_HEADS)[-1] else ""
    unused = config_json.unused_positions(family, tokenizer.pad_id)
    arrays = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        array = names.to_theirs(path_of(path), np.asarray(leaf, np.float32), unused)
        arrays[names.their_name(path_of(path), table).removeprefix(prefix)] = np.ascontiguousarray(array)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(arrays, folder / tensors.FILE, metadata={"format": "pt"})  # without it old readers stop
    config = {**config_json.describe(model, architecture, tokenizer.pad_id), **about}
    config_file = folder / config_json.FILE
    config_file.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")
    (folder / tensors.FILE).chmod(config_file.stat().st_mode)  # safetensors lets nobody else read it
    tokenizer_files.write(tokenizer, folder, length, model.type_count)
    return architecture
