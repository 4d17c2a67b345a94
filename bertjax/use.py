"""What is done with a run: one frozen dataclass a verb, as in `config`."""

import math
import os
import re
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import TYPE_CHECKING

from bertjax import registry
from bertjax.config import SPELLED, Pretrain
from bertjax.contracts import ModelConfig
from bertjax.errors import ConfigError, UserError, at_least, closest
from bertjax.nn.heads import LayerChoice, Pooling
from bertjax.paths import as_path, check_name, remote
from bertjax.storage import AWAY, described, fault_of, storage_error
from bertjax.train.mesh import MeshConfig

if TYPE_CHECKING:
    from bertjax.bucket import BucketPath


@dataclass(frozen=True)
class Evaluate:
    """Scores of a fine-tuned run on a split of its task."""

    run: str = ""
    """folder of a finetune run, or of a suite (of each task its best run on dev, and submission.zip of the split test);
    or a Hugging Face directory with a head"""
    data: str = ""
    """folder with the task's files"""
    task: str = ""
    """of a directory that does not name it; or another task than the run's, with the same labels: ax for mnli"""
    split: str = "dev"
    """dev, test, or what else the task has; without labels predictions are written as GLUE's leaderboard takes them"""
    out: str = ""
    """file for the scores; RUN/scores-SPLIT.json without it (RUN/scores-TASK-SPLIT.json of another task)"""
    batch_size: int = 64

    def __post_init__(self) -> None:
        at_least(1, self, "batch_size")


@dataclass(frozen=True)
class Predict:
    """Predictions of a fine-tuned run for a file of the user's."""

    run: str = ""
    """folder of a finetune run, or a Hugging Face directory with a head"""
    task: str = ""
    """of a directory that does not name it (see `bertjax list tasks`)"""
    input: str = ""
    """TSV, CSV or JSON lines: text or sentence, or the columns the run was trained on;
    text_a and text_b or sentence1 and sentence2; question and context.
    For SQuAD also its own JSON; for entities words, or a word a line; context and choices;
    text with its entities marked as in the task's files"""
    out: str = ""
    """TSV or .jsonl to write: predictions, and how sure the model is of each"""
    batch_size: int = 64
    top: int = 0
    """list so many of the ranked answers (choices, answers of SQuAD); 0: all"""

    def __post_init__(self) -> None:
        at_least(1, self, "batch_size")
        at_least(0, self, "top")
        _check_ending(self.out, ".tsv", ".jsonl")


@dataclass(frozen=True)
class Embed:
    """A vector for each line of a text file."""

    run: str = ""
    """folder of a run, pretrained or fine-tuned"""
    input: str = ""
    """text, a line each; perhaps .gz"""
    out: str = ""
    """.npy to write: float32 [lines, width]"""
    pooling: Pooling = "mean"
    """over real tokens, or the first token, or the greatest value of each unit"""
    features: LayerChoice = "last"
    """layers that are pooled"""
    batch_size: int = 64

    def __post_init__(self) -> None:
        at_least(1, self, "batch_size")
        _check_ending(self.out, ".npy")


@dataclass(frozen=True)
class Convert:
    """A run to a Hugging Face directory, or the other way; TO/parity.json proves that nothing changed."""

    source: str = ""
    """run, or a folder with config.json, model.safetensors and a tokenizer's files; or Google's bert_model.ckpt"""
    to: str = ""
    """folder to write: a run for such a directory, such a directory for a run"""


@dataclass(frozen=True)
class Doctor:
    """Whether this machine, or every host of a cluster, is ready for a run. Exit code 0, or 2 where one would fail."""

    out: str = ""
    """folder of the run, here or in a bucket (gs://)"""
    data: tuple[str, ...] = ()
    """folders made by prepare"""
    mesh: MeshConfig = field(default_factory=MeshConfig)


def _check_ending(out: str, *known: str) -> None:
    if out and not out.endswith(known):
        raise ConfigError(f"--out {out}: {' or '.join(known)} is what is written; give a name that ends so")


IN_BUCKETS = {  # the options that take gs://
    "Pretrain": ("data", "source", "out"),
    "Plan": ("data", "source"),
    "Finetune": ("source", "out"),
    "Evaluate": ("run", "out"),
    "Predict": ("run",),
    "Embed": ("run",),
    "Convert": ("source",),
    "Doctor": ("data", "out"),
}
READ = ("data", "source", "run", "input", "tokenizer")
WRITTEN = ("out", "to")
FETCH = {
    "gs": "gcloud storage cp --recursive {} FOLDER",
    "s3": "aws s3 cp --recursive {} FOLDER",
    "file": "drop file://",
}


def with_preset(config: Pretrain, name: str) -> Pretrain:
    """The config with a published size in the place of its model."""
    presets: dict[str, ModelConfig] = registry.find("models", registry.name_of("models", config.model)).PRESETS
    if name not in presets:
        raise ConfigError(f"--preset {name}: there is no such size{closest(name, presets)}")
    return replace(config, model=presets[name])


def check_finite(config: object, prefix: str = "") -> None:
    """Raises for the first number of a config, or of one that it holds, that is infinite or none."""
    for f in fields(config):  # type: ignore[arg-type]
        value = getattr(config, f.name)
        if is_dataclass(value):
            check_finite(value, f"{prefix}{f.name}.")
        elif bad := [number for number in _floats(value) if not math.isfinite(number)]:
            raise ConfigError(f"{prefix}{f.name}={bad[0]} is not a finite number; give one")


def _floats(value: object) -> list[float]:
    if isinstance(value, tuple):
        return [number for item in value for number in _floats(item)]
    return [value] if isinstance(value, float) else []


def check_paths(config: object) -> None:
    """Raises for a path of a config that is neither one of this machine nor one of a bucket, where that is taken."""
    takes = IN_BUCKETS.get(type(config).__name__, ())
    for name in (*READ, *WRITTEN):
        value = getattr(config, name, "")
        for path in (value,) if isinstance(value, str) else value:
            check_path(SPELLED.get(name, f"--{name}"), path, written=name in WRITTEN, buckets=name in takes)
    if getattr(config, "profile", "") and remote(as_path(getattr(config, "out", ""))):
        raise ConfigError("--profile: a trace is written on this machine; leave it out, or give an --out here")


def check_path(option: str, path: str, *, written: bool = False, buckets: bool = True) -> None:
    """Raises for a path with a scheme that is not taken, with the way to get it here, and for a bucket out of reach."""
    check_name(os.path.abspath(path) if path else "")  # with the folder in which the command was given
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+)://", path)
    if not scheme:
        return
    if scheme[1].lower() == "gs" and buckets:
        found = as_path(path)
        if remote(found):
            check_access(option, found, writes=written)
        return
    fetch = FETCH.get(scheme[1].lower(), "fetch {} into a FOLDER").format(path)
    cure = "copy it there when it is done (gcloud storage cp --recursive)" if written else f"first: {fetch}"
    raise ConfigError(
        f"{option} {path}: paths are those of this machine here; {cure}; or mount it: a share by NFS (Filestore), or a "
        "bucket with a hierarchical namespace by gcsfuse"
    )


def check_access(option: str, path: "BucketPath", *, writes: bool) -> None:
    """Raises where a bucket is not there, or not for this user."""
    from bertjax.bucket import probe

    try:
        probe(path, writes=writes)
    except UserError as error:
        raise type(error)(f"{option} {error}") from None
    except Exception as error:  # gcsfs raises many kinds
        number = fault_of(error)
        if not number:
            raise
        if number == AWAY:
            raise storage_error(path.as_uri(), number) from error
        raise ConfigError(f"{option} {described(path.as_uri(), number)}") from error
