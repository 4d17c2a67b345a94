"""Where batches come from: pure functions of a position, over a prepared corpus (a task's: examples.py)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from bertjax.data.masking import Vocab
from bertjax.data.packing import Rows, most_sequences, one_each, pack
from bertjax.data.rows import Sequences, row_example
from bertjax.data.shards import Meta, Shard, read_shard
from bertjax.errors import ConfigError

Example = dict[str, Any]  # one row before padding: tokens i32[n], types i32[n], perhaps more
Corruption = Callable[[Example, np.random.Generator, float], Example]  # (example, rng, progress) -> example
Planner = Callable[..., Sequences]  # (shard, *, length, rng) -> what an epoch makes of it
HostBatch = dict[str, np.ndarray]


class Position(NamedTuple):
    """A place in the stream of batches; `step` is how many came before, for what changes in the course of a run."""

    epoch: int = 0
    window: int = 0
    batch: int = 0
    step: int = 0


START = Position()
SHORTEST = 8  # tokens a row must have room for

# What a generator is for comes first, as numpy gives (seed, epoch) and (seed, epoch, 0) the same stream.
SHARDS, PLAN, ROWS, CORRUPT, EXAMPLES, PACK = range(1, 7)


def _rng(purpose: int, *counters: int) -> np.random.Generator:
    return np.random.default_rng((purpose, *counters))


class Source(Protocol):
    """Batches as pure functions of their position; picklable, as each worker process gets a copy."""

    windows: int  # in every epoch
    batch_size: int

    def batches(self, epoch: int, window: int) -> int:
        """How many batches a window has."""
        ...

    def batch(self, position: Position) -> HostBatch:
        """The batch at a position."""
        ...


def stack(examples: Sequence[Example], *, length: int, pad: int) -> HostBatch:
    """B examples as one batch (as in contracts): tokens, types, sequence, positions i32[B,L]; first_tokens i32[B,S].

    An example that says nothing of them is one sequence. Other arrays (labels of sequences, a corruption's slots)
    have one shape in all examples and are stacked under their own names.
    """
    rows = len(examples)
    batch = {name: np.zeros((rows, length), np.int32) for name in ("tokens", "types", "sequence", "positions")}
    batch["tokens"][:] = pad
    for i, example in enumerate(examples):
        size = len(example["tokens"])
        assert size <= length, f"an example of {size} tokens for rows of {length}"
        batch["tokens"][i, :size] = example["tokens"]
        batch["types"][i, :size] = example["types"]
        batch["sequence"][i, :size] = example.get("sequence", 1)
        batch["positions"][i, :size] = example["positions"] if "positions" in example else np.arange(size)
    for name in examples[0].keys() - batch.keys() - {"label"}:
        batch[name] = np.stack([example[name] for example in examples])
    return {"first_tokens": np.zeros((rows, 1), np.int32), **batch}


class _Window(NamedTuple):
    shards: list[Shard]
    sequences: list[Sequences]
    rows: list[Rows]
    order: np.ndarray  # i64[R, 2]: (shard, row) of each row of the window as it comes


NO_WINDOW = _Window([], [], [], np.empty((0, 2), np.int64))


class CorpusSource:
    """Rows of one split of a prepared corpus, planned and corrupted anew in every epoch.

    An epoch permutes the shards and takes them `window_shards` at a time; the rows of a window are mixed. Memory is
    that of one window. What does not fill a batch at the end of a window waits for another epoch's plan. With
    `packing` a row has several sequences. `steps` is the length of the run, in which the corruption may change.
    """

    def __init__(
        self,
        data_dir: str | Path,
        split: str,
        *,
        length: int,
        batch_size: int,
        seed: int,
        vocab: Vocab,
        planner: Planner,
        corruption: Corruption,
        steps: int,
        packing: bool = False,
        window_shards: int = 8,
    ) -> None:
        meta = Meta.load(data_dir)
        files = meta.splits.get(split)
        if not files:
            hint = "; holding out needs a share above 0 and four or more documents" if split == "valid" else ""
            raise ConfigError(f"{data_dir}: has no {split!r} documents{hint}")
        if meta.vocab_size != vocab.size:
            raise ConfigError(
                f"{data_dir}: tokenised with {meta.vocab_size} pieces, but the vocabulary has {vocab.size}"
            )
        if length < SHORTEST:
            raise ConfigError(f"length={length} is too short for a row of text; at least {SHORTEST}")
        self.paths = [Path(data_dir) / file.name for file in files]
        self.windows = -(-len(files) // window_shards)
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.vocab, self.planner, self.corruption, self.steps = vocab, planner, corruption, steps
        self.packing = packing
        self._at = (-1, -1)
        self._window = NO_WINDOW
        # A row takes at most about `length` tokens, so only little data needs to be planned to know.
        if meta.total(split, "tokens") < 8 * batch_size * length and not any(
            self.batches(0, window) for window in range(self.windows)
        ):
            raise ConfigError(
                f"{data_dir}: the {split} documents do not fill one batch of {batch_size} rows of {length}; "
                "lower the batch size or the length, or prepare more text"
            )

    def __getstate__(self) -> dict[str, Any]:  # worker processes read their own window
        return {**self.__dict__, "_at": (-1, -1), "_window": NO_WINDOW}

    def batches(self, epoch: int, window: int) -> int:
        """Full batches in a window of an epoch."""
        return len(self._load(epoch, window).order) // self.batch_size

    def batch(self, position: Position) -> HostBatch:
        """The batch at a position, each row corrupted with a generator of its own."""
        epoch, window, number, step = position
        progress = min(1.0, step / self.steps)
        shards, sequences, rows, order = self._load(epoch, window)
        most = most_sequences(self.length) if self.packing else 1
        examples = []
        for index in range(number * self.batch_size, (number + 1) * self.batch_size):
            shard, row = order[index]
            text, members = shards[shard].tokens, rows[shard].row(row)
            example = row_example(text, sequences[shard], members, vocab=self.vocab, most=most)
            examples.append(self.corruption(example, _rng(CORRUPT, self.seed, epoch, window, index), progress))
        return stack(examples, length=self.length, pad=self.vocab.pad)

    def _load(self, epoch: int, window: int) -> _Window:
        if self._at != (epoch, window):
            self._window = self._plan(epoch, window)
            self._at = (epoch, window)
        return self._window

    def _plan(self, epoch: int, window: int) -> _Window:
        order = _rng(SHARDS, self.seed, epoch).permutation(len(self.paths))
        numbers = np.array_split(order, self.windows)[window].tolist()
        shards = [read_shard(self.paths[number]) for number in numbers]
        sequences = [
            self.planner(shard, length=self.length, rng=_rng(PLAN, self.seed, epoch, number))
            for shard, number in zip(shards, numbers, strict=True)
        ]
        rows = [
            pack(plan.sizes, length=self.length, rng=_rng(PACK, self.seed, epoch, number))
            if self.packing
            else one_each(len(plan))
            for plan, number in zip(sequences, numbers, strict=True)
        ]
        counts = [len(made.bounds) - 1 for made in rows]
        every = np.stack([np.repeat(np.arange(len(counts)), counts), np.concatenate([np.arange(n) for n in counts])], 1)
        return _Window(shards, sequences, rows, _rng(ROWS, self.seed, epoch, window).permutation(every))
