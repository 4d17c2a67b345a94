"""Top-level runs: one frozen dataclass a verb, checked when it is made. Recipes in configs/ return them.

Those of verbs that use a run are in `use`.
"""

from dataclasses import dataclass, field, fields, replace
from typing import Literal, NamedTuple

from bertjax import tasks
from bertjax.contracts import AttentionKind, ModelConfig, ObjectiveConfig, Remat
from bertjax.data.rows import SHORTEST
from bertjax.errors import ConfigError, at_least
from bertjax.models import bert
from bertjax.nn.heads import LayerChoice
from bertjax.objectives import mlm
from bertjax.tasks._columns import Columns
from bertjax.tasks.glue import SUITES
from bertjax.train.guard import Guard
from bertjax.train.mesh import MeshConfig
from bertjax.train.optim import Optimizer
from bertjax.train.profile import profiled
from bertjax.train.stop import Limits

OF_TRAINING = ("tokenizer_kind", "vocab_size", "lowercase", "sample_characters")  # a vocabulary, of those of Prepare


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
    """bytes in text files, else characters; a longer line is cut at white space"""
    max_document: int = 64 << 20
    """characters; what is longer is cut into several documents; a line of JSON of more bytes is dropped; all counted"""
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
        at_least(1, self, "vocab_size", "shard_tokens")
        at_least(16, self, "max_line")
        at_least(0, self, "workers", "sample_characters")
        if self.max_document < self.max_line:
            raise ConfigError(f"max_document={self.max_document} must be at least max_line={self.max_line}")
        given = [f for f in fields(self) if f.name in OF_TRAINING and getattr(self, f.name) != f.default]
        if self.tokenizer and given:
            name = given[0].name
            raise ConfigError(
                f"{name}={getattr(self, name)} is for training a vocabulary; leave it out with --tokenizer"
            )


@dataclass(frozen=True)
class Pretrain(Limits):
    """A prepared corpus to an encoder. The same command on the same --out resumes."""

    data: tuple[str, ...] = ()
    """folder made by prepare, here or in a bucket (gs://), or several, each of which gives rows to every batch"""
    data_weights: tuple[float, ...] = ()
    """of several folders: shares of the rows, as 7 3; without them in proportion to their tokens"""
    source: str = ""
    """run or Hugging Face directory to begin from: its weights, vocabulary and model, but for dropout and dtype"""
    out: str = ""
    """folder of the run, here or in a bucket (gs://)"""
    model: ModelConfig = field(default_factory=bert.Config)
    objective: ObjectiveConfig = field(default_factory=mlm.Config)
    optimizer: Optimizer = field(default_factory=Optimizer)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    steps: int = 1_000_000
    batch_size: int = 256
    """rows of a step, over all devices"""
    micro_batches: int = 1
    """pieces a batch is cut into to save memory; the gradient stays the same up to rounding, so that a run that is
    short of memory may be resumed with more"""
    remat: Remat = "none"
    """what the backward pass computes again, to save memory, in place of keeping it: nothing; layers (blocks: a third
    more work); the large and cheap parts of layers, all but the products with weights (dots). The gradient stays the
    same. On CPUs it saves next to nothing"""
    attention: AttentionKind = "auto"
    """the fused kernel of the machine where it can be used, which needs model.attention_dropout=0: cudnn on GPUs (with
    bfloat16), splash on TPUs (rows of 512 and more); einsum else. Results are the same up to rounding"""
    length: int = 128
    """tokens in a row"""
    later_phases: tuple[tuple[float, int, int], ...] = ()
    """phases after the first, each: share of all steps, length, batch size; 0.1 512 256 as BERT's last tenth"""
    packing: bool = False
    """fill a row with several sequences, up to one for every 8 tokens, none of which sees another"""
    seed: int = 0
    workers: int = 0
    """processes that make batches; 0: one thread"""
    log_every: int = 100
    eval_every: int = 10_000
    eval_batches: int = 20
    """batches of held-out text in an evaluation, shaped as those of its phase; the best checkpoint is of the last"""
    save_every: int = 10_000
    save_sync: bool = False
    """wait until a checkpoint is on the disk: a kill then costs the steps of one interval at most, not of two"""
    keep_last: int = 2
    """checkpoints to keep besides the best"""
    guard: Guard = field(default_factory=Guard)
    profile: str = ""
    """as 10:15, a profiler trace of the 10th to the 15th step after the start, in OUT/profile"""

    def __post_init__(self) -> None:
        super().__post_init__()
        profiled(self.profile)
        at_least(
            1, self, "steps", "batch_size", "micro_batches", "log_every", "eval_every", "eval_batches", "save_every"
        )
        at_least(0, self, "workers", "seed")
        at_least(1, self, "keep_last")
        if self.data_weights and (len(self.data_weights) != len(self.data) or min(self.data_weights) <= 0):
            raise ConfigError(
                f"data_weights={' '.join(f'{weight:g}' for weight in self.data_weights)}: "
                f"give a number above 0 for each of the {len(self.data)} folders of --data"
            )
        shares = [share for share, _, _ in self.later_phases]
        if shares and not (min(shares) > 0 and sum(shares) < 1):
            raise ConfigError(f"later_phases={self.later_phases}: the shares must be above 0 and sum to below 1")
        for phase in self.phases:
            if not self.source:  # whose model is not known here
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
class Plan(Pretrain):
    """What a pretraining run would take on chips that are not here: its step is compiled for them, nothing is trained.

    Without --data the model has the vocabulary of its config.
    """

    out: str = ""
    """JSON file to write; plan-TOPOLOGY.json without it"""
    topology: str = ""
    """chips, as v5e:16x16: v4, v5e, v5p, v6e or tpu7x and the shape of a slice; as h100:8: a100, h100 or h200 and how
    many a host has; or local, the devices of this machine"""
    quick: bool = False
    """compile with the lowest effort: sooner, but it may take more memory than the run would"""


@dataclass(frozen=True)
class Finetune(Limits):
    """A pretrained run or Hugging Face directory and a task to a fine-tuned model and its scores."""

    task: str = ""
    """see `bertjax list tasks`; glue: all of its tasks that --data has, in OUT/TASK/, and a table of them"""
    task_settings: tuple[str, ...] = ()
    """numbers of the task, like stride=64 max_answer=20 (squad: stride, max_question, max_answer, n_best; entities:
    stride)"""
    source: str = ""
    """run or Hugging Face directory to take encoder and tokenizer from"""
    data: str = ""
    """folder with the task's files as they are published; of GLUE also tfds:glue[/NAME][:VERSION][@DIR]"""
    columns: Columns = field(default_factory=Columns)
    """of your own files: --task text"""
    out: str = ""
    """folder of the run, here or in a bucket (gs://)"""
    encoder: Literal["pretrained", "random"] = "pretrained"
    """random: the same architecture untrained, to see what pretraining gave"""
    baseline: Literal["none", "tfidf"] = "none"
    """score TF-IDF + logistic (for numbers: ridge) regression on the same rows beside it"""
    train_rows: int = 0
    """train on so many rows, drawn by the seed; 0: all"""
    epochs: int = 3
    batch_size: int = 32
    micro_batches: int = 1
    remat: Remat = "none"
    """as in pretraining: blocks or dots save memory and change no result"""
    attention: AttentionKind = "auto"
    """as in pretraining; the model's dropout is that of its run"""
    length: int = 128
    """tokens in a row; longer texts are cut, contexts of questions seen in windows"""
    buckets: tuple[int, ...] = ()
    """row lengths, as 32 64: rows of like length share a batch of the shortest that holds them; `length` is the last"""
    dropout: float = 0.1
    """on what the head of the task sees"""
    class_weights: tuple[str, ...] = ()
    """how much rows of each label count in training: a number for each, or `balanced`: as if all were as frequent"""
    new_layers: int = 0
    """so many layers at the top, and the pooler, start anew instead of from the run (Zhang et al. 2021)"""
    frozen: bool = False
    """train pooler and head alone, the encoder gives features"""
    features: LayerChoice = "last"
    """layers that pooler or head see (BERT, 5.3)"""
    patience: int = 0
    """stop after so many epochs without a better score on dev; 0: never"""
    optimizer: Optimizer = field(default_factory=lambda: Optimizer(kind="adamw", peak_lr=5e-5, warmup=0.1))
    """AdamW with bias correction: without it training on small tasks often fails (Mosbach et al. 2021)"""
    mesh: MeshConfig = field(default_factory=MeshConfig)
    seed: int = 0
    seeds: tuple[int, ...] = ()
    """a run each in place of `seed`, in OUT/TASK/seed-N, and a table of them; what is finished is kept"""
    grid: Literal["none", "bert", "small"] = "none"
    """in place of batch_size, peak_lr and epochs all of: 16, 32; 5e-5, 3e-5, 2e-5; 2, 3, 4 (BERT, A.3); or, for small
    models, 8 to 128; 3e-4, 1e-4, 5e-5, 3e-5; 4 (Turc et al. 2019)"""
    from_mnli: bool = False
    """of glue: RTE, MRPC and STS-B start from the run of MNLI with the same seed"""
    log_every: int = 20
    guard: Guard = field(default_factory=Guard)
    profile: str = ""
    """as in pretraining"""

    def __post_init__(self) -> None:
        super().__post_init__()
        profiled(self.profile)
        at_least(1, self, "epochs", "batch_size", "micro_batches", "log_every")
        at_least(0, self, "train_rows", "seed", "new_layers", "patience")
        if list(self.buckets) != sorted({*self.buckets}) or min(self.buckets, default=SHORTEST) < SHORTEST:
            raise ConfigError(f"buckets={' '.join(map(str, self.buckets))}: lengths from {SHORTEST} on, ascending")
        if self.length < SHORTEST:
            raise ConfigError(f"length={self.length} leaves no room for text; at least {SHORTEST}")
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"dropout={self.dropout} is not a probability in [0, 1)")
        if self.new_layers and (self.encoder == "random" or self.frozen):
            raise ConfigError(
                f"new_layers={self.new_layers} is for a pretrained encoder that is trained on; "
                "leave out --encoder random and --frozen"
            )
        if self.task:
            for name in SUITES.get(self.task, (self.task,)):
                tasks.with_settings(tasks.find(name, self.columns), self.task_settings)
        if len(set(self.seeds)) < len(self.seeds) or min(self.seeds, default=0) < 0:
            raise ConfigError(f"seeds={' '.join(map(str, self.seeds))}: give each once, none below 0")


def check_length(length: int, model: ModelConfig) -> None:
    """Raises where rows of `length` tokens have no room, or no positions in the model."""
    if not SHORTEST <= length <= model.max_length:
        raise ConfigError(
            f"length={length} must lie between {SHORTEST} and model.max_length={model.max_length} (the position table)"
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
