"""Top-level runs: one frozen dataclass a verb, checked when it is made. Recipes in configs/ return them."""

from dataclasses import dataclass, field, fields, replace
from typing import Literal, NamedTuple

from bertjax import tasks
from bertjax.contracts import ModelConfig, ObjectiveConfig
from bertjax.errors import ConfigError
from bertjax.models import bert
from bertjax.objectives import mlm
from bertjax.train.mesh import MeshConfig
from bertjax.train.optim import Optimizer


@dataclass(frozen=True)
class Prepare:
    """Text files to a tokenizer and shards of tokens."""

    corpus: tuple[str, ...] = ()
    """files or globs: text (a blank line between documents), WikiExtractor's, .jsonl, .parquet; also .gz, .bz2, .zst.
    Or tfds:NAME[/CONFIG][:VERSION][:SPLIT]"""
    out: str = ""
    """folder to write"""
    tokenizer: str = ""
    """vocab.txt, vocab.json (and merges.txt), spiece.model, tokenizer.json, or a folder; without it one is trained"""
    tokenizer_kind: Literal["wordpiece", "bpe", "unigram", "sentencepiece-bpe"] = "wordpiece"
    """of the vocabulary to train: BERT's WordPiece, byte-level BPE as in RoBERTa, SentencePiece as in ALBERT"""
    vocab_size: int = 8_192
    """of the vocabulary to train"""
    lowercase: bool = True
    """of the vocabulary to train: lower-case, and strip accents (not bpe), as BERT uncased (not for Korean)"""
    sample_characters: int = 0
    """of the text, drawn at random, to train the vocabulary on; 0: what suits the kind, which is all (wordpiece), 100
    million (bpe) or 20 million (unigram, sentencepiece-bpe; memory and time grow with it)"""
    text_column: str = "text"
    """name of the text in JSON lines, Parquet and TFDS"""
    data_dir: str = ""
    """where data sets of TFDS lie, prepared as array_record; ~/tensorflow_datasets without it"""
    wrapped: bool = False
    """lines of text files are wrapped at a fixed width: join them inside a document"""
    deduplicate: bool = False
    """drop documents that are the same as an earlier one (12 to 24 bytes of memory a document)"""
    max_line: int = 1 << 20
    """bytes; a longer line is cut at white space"""
    max_document: int = 64 << 20
    """bytes; what is longer is cut into several documents, or, when it is a line of JSON, dropped; all counted"""
    held_out: float = 0.01
    """share of the documents kept for evaluation, below 0.5"""
    shard_tokens: int = 4_000_000
    """tokens after which a shard is closed"""
    workers: int = 0
    """processes that count words and tokenise beside the one that reads; the shards do not depend on their number"""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 < self.held_out < 0.5:
            raise ConfigError(f"held_out={self.held_out} must be a share above 0 and below 0.5")
        _at_least(1, self, "vocab_size", "shard_tokens")
        _at_least(16, self, "max_line")
        _at_least(0, self, "workers", "sample_characters")
        if self.max_document < self.max_line:
            raise ConfigError(f"max_document={self.max_document} must be at least max_line={self.max_line}")
        if self.tokenizer and self.tokenizer_kind != "wordpiece":
            raise ConfigError(
                f"tokenizer_kind={self.tokenizer_kind} is for training one; leave it out with --tokenizer"
            )


@dataclass(frozen=True)
class Pretrain:
    """A prepared corpus to an encoder. The same command on the same --out resumes."""

    data: tuple[str, ...] = ()
    """folder made by prepare, or several, each of which gives rows to every batch"""
    data_weights: tuple[float, ...] = ()
    """of several folders: shares of the rows, as 7 3; without them in proportion to their tokens"""
    out: str = ""
    """folder of the run"""
    model: ModelConfig = field(default_factory=bert.Config)
    objective: ObjectiveConfig = field(default_factory=mlm.Config)
    optimizer: Optimizer = field(default_factory=Optimizer)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    steps: int = 1_000_000
    batch_size: int = 256
    """rows of a step, over all devices"""
    micro_batches: int = 1
    """pieces a batch is cut into to save memory; the gradient stays the same"""
    length: int = 128
    """tokens in a row"""
    later_phases: tuple[tuple[float, int, int], ...] = ()
    """phases after the first, each: share of all steps, length, batch size; 0.1 512 64 as BERT's last tenth"""
    packing: bool = False
    """fill a row with several sequences, up to one for every 8 tokens, none of which sees another"""
    seed: int = 0
    workers: int = 0
    """processes that make batches; 0: one thread"""
    log_every: int = 100
    eval_every: int = 10_000
    eval_batches: int = 20
    """batches of held-out text in an evaluation"""
    save_every: int = 10_000
    keep_last: int = 2
    """checkpoints to keep besides the best"""

    def __post_init__(self) -> None:
        _at_least(
            1, self, "steps", "batch_size", "micro_batches", "log_every", "eval_every", "eval_batches", "save_every"
        )
        _at_least(0, self, "workers", "seed")
        _at_least(1, self, "keep_last")
        if self.data_weights and (len(self.data_weights) != len(self.data) or min(self.data_weights) <= 0):
            raise ConfigError(
                f"data_weights={' '.join(f'{weight:g}' for weight in self.data_weights)}: "
                f"give a number above 0 for each of the {len(self.data)} folders of --data"
            )
        shares = [share for share, _, _ in self.later_phases]
        if shares and not (min(shares) > 0 and sum(shares) < 1):
            raise ConfigError(f"later_phases={self.later_phases}: the shares must be above 0 and sum to below 1")
        for phase in self.phases:
            check_length(phase.length, self.model)
            if min(phase.steps, phase.batch_size) < 1:
                raise ConfigError(f"later_phases: {phase} needs a step and a row; raise its share or --steps")

    @property
    def phases(self) -> list["PhaseConfig"]:
        """The first phase, which takes what steps the later ones leave, and these."""
        later = [PhaseConfig(round(share * self.steps), *shape) for share, *shape in self.later_phases]
        first = self.steps - sum(phase.steps for phase in later)
        return [PhaseConfig(first, self.length, self.batch_size), *later]


class PhaseConfig(NamedTuple):
    """A part of a pretraining run with batches of one shape."""

    steps: int
    length: int
    batch_size: int


@dataclass(frozen=True)
class Finetune:
    """A pretrained run or Hugging Face directory and a task to a fine-tuned model and its scores."""

    task: str = ""
    """see `bertjax list tasks`"""
    task_settings: tuple[str, ...] = ()
    """numbers of the task, like stride=64 max_answer=20 (squad: stride, max_question, max_answer, n_best; entities:
    stride)"""
    source: str = ""
    """run or Hugging Face directory to take encoder and tokenizer from"""
    data: str = ""
    """folder with the task's files as they are published"""
    out: str = ""
    """folder of the run"""
    encoder: Literal["pretrained", "random"] = "pretrained"
    """random: the same architecture untrained, to see what pretraining gave"""
    baseline: Literal["none", "tfidf"] = "none"
    """score TF-IDF + logistic regression on the same rows beside it"""
    train_rows: int = 0
    """train on so many rows, drawn by the seed; 0: all"""
    epochs: int = 3
    batch_size: int = 32
    micro_batches: int = 1
    length: int = 128
    """tokens in a row; longer texts are cut, contexts of questions seen in windows"""
    dropout: float = 0.1
    """on what the head of the task sees"""
    optimizer: Optimizer = field(default_factory=lambda: Optimizer(kind="adamw", peak_lr=5e-5, warmup=0.1))
    mesh: MeshConfig = field(default_factory=MeshConfig)
    seed: int = 0
    log_every: int = 20

    def __post_init__(self) -> None:
        _at_least(1, self, "epochs", "batch_size", "micro_batches", "log_every")
        _at_least(0, self, "train_rows", "seed")
        if self.length < 8:
            raise ConfigError(f"length={self.length} leaves no room for text; at least 8")
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"dropout={self.dropout} is not a probability in [0, 1)")
        if self.task:
            tasks.find(self.task, self.task_settings)


@dataclass(frozen=True)
class Evaluate:
    """Scores of a fine-tuned run on a split of its task."""

    run: str = ""
    """folder of a finetune run, or a Hugging Face directory with a head"""
    task: str = ""
    """of a directory that does not name it (see `bertjax list tasks`)"""
    data: str = ""
    """folder with the task's files"""
    split: str = "dev"
    out: str = ""
    """file for the scores; RUN/scores-SPLIT.json without it"""
    batch_size: int = 64

    def __post_init__(self) -> None:
        _at_least(1, self, "batch_size")


@dataclass(frozen=True)
class Predict:
    """Predictions of a fine-tuned run for a file of the user's."""

    run: str = ""
    """folder of a finetune run, or a Hugging Face directory with a head"""
    task: str = ""
    """of a directory that does not name it (see `bertjax list tasks`)"""
    input: str = ""
    """TSV or JSON lines: text or sentence; text_a and text_b or sentence1 and sentence2; question and context.
    For SQuAD also its own JSON; for entities words, or a word a line;
    context and choices; text with its entities marked as in the task's files"""
    out: str = ""
    """TSV or .jsonl to write: predictions, and how sure the model is of each"""
    batch_size: int = 64
    top: int = 0
    """list so many of the ranked answers (choices, answers of SQuAD); 0: all"""

    def __post_init__(self) -> None:
        _at_least(1, self, "batch_size")
        _at_least(0, self, "top")


@dataclass(frozen=True)
class Convert:
    """A run to a Hugging Face directory, or such a directory to a run; TO/parity.json proves that nothing changed."""

    source: str = ""
    """run, or a folder with config.json, model.safetensors and a tokenizer's files"""
    to: str = ""
    """folder to write: a run for such a directory, such a directory for a run"""


def _at_least(low: int, config: object, *names: str) -> None:
    for name in names:
        if getattr(config, name) < low:
            raise ConfigError(f"{name}={getattr(config, name)} must be at least {low}")


def check_length(length: int, model: ModelConfig) -> None:
    """Raises where rows of `length` tokens have no room, or no positions in the model."""
    if not 8 <= length <= model.max_length:
        raise ConfigError(
            f"length={length} must lie between 8 and model.max_length={model.max_length} (the position table)"
        )


def with_vocabulary(config: Pretrain, vocab_size: int) -> Pretrain:
    """The config with the vocabulary of the prepared data; a size asked for by hand must be that one."""
    if config.model.vocab_size not in (vocab_size, type(config.model)().vocab_size):
        raise ConfigError(
            f"model.vocab_size={config.model.vocab_size} but the prepared data has {vocab_size}; "
            "leave the option out: the size comes from the data"
        )
    return replace(config, model=replace(config.model, vocab_size=vocab_size))  # type: ignore[type-var]


# Fields whose option has another name than `--field`.
SPELLED = {"source": "--from", "run": "RUN"}


def require(config: object, *names: str) -> None:
    """Raises for options that have no default and were not given."""
    missing = [name for name in names if not getattr(config, name)]
    if missing:
        flags = ", ".join(SPELLED.get(name, f"--{name}") for name in missing)
        raise ConfigError(f"missing: {flags}; see --help")


# What may differ when a run is taken up again; all else would make another run of it.
MAY_CHANGE = {"data", "out", "mesh", "workers", "baseline"}
MAY_CHANGE |= {"log_every", "eval_every", "eval_batches", "save_every", "keep_last"}


def check_resume(old: object, new: object, run: str) -> None:
    """Raises, naming every key with its old and new value, where a resumed run would not be the same run."""
    changed = list(_differences(old, new, ""))
    if changed:
        listed = "\n  ".join(f"{key}: was {was!r}, now {now!r}" for key, was, now in changed)
        raise ConfigError(
            f"{run} was begun with another configuration:\n  {listed}\n"
            "Give the old values to resume it, or another --out to begin anew."
        )


def _differences(old: object, new: object, prefix: str) -> list[tuple[str, object, object]]:
    if type(old) is not type(new) or not hasattr(old, "__dataclass_fields__"):
        name = prefix.rstrip(".")
        return [] if old == new else [(SPELLED.get(name, name), old, new)]
    found = []
    for f in fields(old):  # type: ignore[arg-type]
        if prefix or f.name not in MAY_CHANGE:
            found += _differences(getattr(old, f.name), getattr(new, f.name), f"{prefix}{f.name}.")
    return found
