"""Where batches come from: pure functions of a position, such as those over a prepared corpus."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from bertjax.data.masking import Vocab
from bertjax.data.meta import again
from bertjax.data.packing import Rows, one_each, pack, sequences_in_row
from bertjax.data.plan import next_sentence
from bertjax.data.rows import SHORTEST, Corruption, HostBatch, Planner, Sequences, row_batch
from bertjax.data.shards import Meta, read_shards
from bertjax.errors import ConfigError, DataError
from bertjax.paths import as_path


class Position(NamedTuple):
    """A place in the stream of batches; `step` is how many came before, for what changes in the course of a run."""

    epoch: int = 0
    window: int = 0
    batch: int = 0
    step: int = 0


START = Position()

# What a generator is for comes first, as numpy gives (seed, epoch) and (seed, epoch, 0) the same stream.
SHARDS, PLAN, ROWS, CORRUPT, EXAMPLES, PACK = range(1, 7)


def generator(purpose: int, *counters: int) -> np.random.Generator:
    """A generator for one purpose, a pure function of the counters."""
    return np.random.default_rng((purpose, *counters))


class Source(Protocol):
    """Batches as pure functions of their position; picklable, as each worker process gets a copy."""

    windows: int  # in every epoch
    batch_size: int

    def batches(self, epoch: int, window: int) -> int:
        """How many batches a window has."""
        ...

    def batch(self, position: Position, rows: np.ndarray | None = None) -> HostBatch:
        """The batch at a position, or of its rows those named i64[b], as another would make the rest of them."""
        ...

    def numbers(self, position: Position) -> np.ndarray:
        """Numbers of what a batch has, among all of the epoch (of its window, of a corpus): i64[B]."""
        ...


class _Window(NamedTuple):
    text: np.ndarray  # tokens of its shards, joined
    sequences: Sequences
    rows: Rows
    order: np.ndarray  # i64[R]: the rows as they come
    keys: np.ndarray  # u64[R]: of each, what its corruption is drawn from


class CorpusSource:
    """Rows of one split of a prepared corpus, planned and corrupted anew in every epoch.

    An epoch permutes the shards and takes them `window_shards` at a time; the rows of a window are mixed. Memory is
    that of one window. What does not fill a batch at the end of a window waits for another epoch's plan. With
    `packing` a row has several sequences. `steps` is the length of the run, in which the corruption may change.
    `number` tells apart the sources of one run.
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
        number: int = 0,
        packing: bool = False,
        window_shards: int = 8,
    ) -> None:
        meta = Meta.load(data_dir)
        files = meta.splits.get(split)
        if not files:
            hint = "; holding out needs a share above 0 and four documents, or lines" if split == "valid" else ""
            raise ConfigError(f"{data_dir}: has no {split!r} documents{hint}")
        if meta.vocab_size != vocab.size:
            raise ConfigError(
                f"{data_dir}: tokenised with {meta.vocab_size} pieces, but the vocabulary has {vocab.size}"
            )
        if planner is next_sentence and min(file.documents for file in files) < 2:
            raise ConfigError(
                f"{data_dir}: {split} has a single document, so next sentence prediction has no negatives; prepare "
                "more (blank lines part documents), or give --objective.examples sop, full-sentences or segments"
            )
        if length < SHORTEST:
            raise ConfigError(f"length={length} is too short for a row of text; at least {SHORTEST}")
        self.paths = [as_path(data_dir) / file.name for file in files]
        self.windows = -(-len(files) // window_shards)
        self.length, self.batch_size, self.seed = length, batch_size, (seed, number)
        self.vocab, self.planner, self.corruption, self.steps = vocab, planner, corruption, steps
        self.packing = packing
        self._at = (-1, -1)
        self._window: _Window | None = None
        # A row takes at most about `length` tokens, so only little data needs to be planned to know.
        if meta.total(split, "tokens") < 8 * batch_size * length and not any(
            self.batches(0, window) for window in range(self.windows)
        ):
            raise ConfigError(
                f"{data_dir}: the {split} documents do not fill one batch of {batch_size} rows of {length}; "
                "lower the batch size or the length, or prepare more text"
            )

    def __getstate__(self) -> dict[str, Any]:  # worker processes read their own window
        return {**self.__dict__, "_at": (-1, -1), "_window": None}

    def batches(self, epoch: int, window: int) -> int:
        """Full batches in a window of an epoch."""
        return len(self._load(epoch, window).order) // self.batch_size

    def batch(self, position: Position, rows: np.ndarray | None = None) -> HostBatch:
        """The batch at a position, or of its rows those named; each is corrupted by a key of its own."""
        epoch, window, number, step = position
        here = self._load(epoch, window)
        place = number * self.batch_size + (np.arange(self.batch_size) if rows is None else rows)
        batch = row_batch(
            here.text,
            here.sequences,
            here.rows,
            here.order[place],
            length=self.length,
            most=sequences_in_row(self.length, packing=self.packing),
            vocab=self.vocab,
        )
        return self.corruption(batch, here.keys[place], min(1.0, step / self.steps))

    def numbers(self, position: Position) -> np.ndarray:
        """The rows of a batch among those of its window: i64[B]."""
        return self._load(position.epoch, position.window).order[position.batch * self.batch_size :][: self.batch_size]

    def _load(self, epoch: int, window: int) -> _Window:
        if self._window is None or self._at != (epoch, window):
            self._window = self._plan(epoch, window)
            self._at = (epoch, window)
        return self._window

    def _plan(self, epoch: int, window: int) -> _Window:
        order = generator(SHARDS, *self.seed, epoch).permutation(len(self.paths))
        numbers = np.array_split(order, self.windows)[window].tolist()
        shards = read_shards([self.paths[number] for number in numbers])
        for shard, number in zip(shards, numbers, strict=True):
            if shard.tokens.max(initial=0) >= self.vocab.size:
                path = self.paths[number]
                raise DataError(f"{path}: has tokens beyond the vocabulary of {self.vocab.size}; {again(path.parent)}")
        sequences = [
            self.planner(shard, length=self.length, rng=generator(PLAN, *self.seed, epoch, number))
            for shard, number in zip(shards, numbers, strict=True)
        ]
        rows = Rows.joined(
            [
                pack(plan.sizes, length=self.length, rng=generator(PACK, *self.seed, epoch, number))
                if self.packing
                else one_each(len(plan))
                for plan, number in zip(sequences, numbers, strict=True)
            ]
        )
        count = len(rows.bounds) - 1
        return _Window(
            text=np.concatenate([shard.tokens for shard in shards]),
            sequences=Sequences.joined(sequences, [len(shard.tokens) for shard in shards]),
            rows=rows,
            order=generator(ROWS, *self.seed, epoch, window).permutation(count),
            keys=generator(CORRUPT, *self.seed, epoch, window).integers(2**64, size=count, dtype=np.uint64),
        )
