"""A prepared corpus on disk: unmasked tokens in ArrayRecord shards beside a meta.json that says what they are.

A shard holds whole documents, two or more of them where there are as many, so that every shard has negatives for NSP.
A single read costs in proportion to the records of a file, so these are large blocks and a shard is read whole.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from itertools import chain
from pathlib import Path

from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from bertjax.data import datareport, encode, parallel
from bertjax.data.blocks import Shard, pack, unpack
from bertjax.data.encode import Encoded
from bertjax.data.held_out import split as held_out_split
from bertjax.data.journal import Entry, Journal
from bertjax.data.meta import VERSION, Meta, ShardFile, again, file_hash
from bertjax.data.sampling import NO_TEXT
from bertjax.data.tally import Tally
from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import ConfigError, DataError
from bertjax.paths import as_path, fetched, remote
from bertjax.storage import fault_of, reading, storage_error

SAMPLES = 12  # sentences shown in the report
SAMPLE_TOKENS = 64  # of each


def write(
    documents: Iterable[list[str]],
    tokenizer: Tokenizer,
    out: str | Path,
    *,
    held_out: float,
    seed: int,
    counts: Counter[str],
    sentences: Callable[[list[str]], list[str]] = list,
    shard_tokens: int = 4_000_000,
    workers: int = 0,
    journal: Journal | None = None,
    progress: Callable[[int, int], None] = lambda documents, tokens: None,
) -> Meta:
    """Tokenise documents into train-*.array_record, valid-*.array_record, tokenizer/, report.* and, last, meta.json.

    A document is a list of lines, and `sentences` gives the sentences of these; by default they are the lines. A share
    `held_out` of the documents, drawn from `seed`, goes to `valid`: at least two when there are four or more, else the
    last lines of each. What is written does not depend on the number of `workers` (processes), nor on how often it was
    killed: shards that the `journal` knows are kept. `progress` hears of (documents, tokens) so far; `counts` gathers
    what is dropped.
    """
    out = Path(out)
    if not 0 <= held_out < 0.5:
        raise ConfigError(f"held_out={held_out}: the share of held-out documents must be from 0 to below 0.5")
    journal = journal or Journal(out, "")
    with journal.open(tokenizer):
        writers = {split: _SplitWriter(journal, split, shard_tokens, tokenizer.unk_id) for split in ("train", "valid")}
        tokens = sum(entry.shard.tokens for entry in journal.entries)
        lots = encode.lots(journal.remaining(held_out_split(documents, held_out, seed)))
        with closing(parallel.ordered(encode.Encoder(tokenizer, sentences), lots, workers)) as encoded:
            for item in chain.from_iterable(encoded):
                writers[item.split].add(item)
                tokens += len(item.document.tokens)
                progress(sum(writer.documents for writer in writers.values()), tokens)
        splits = _finish(writers)
        tally = writers["train"].tally + writers["valid"].tally
        counts.update(tally.dropped)
        meta = Meta(VERSION, tokenizer.hash, tokenizer.vocab_size, seed, splits, dict(counts))
        datareport.write(out, meta, tally, _samples(out / splits["train"][0].name, tokenizer))
        meta.save(out)
        return meta


def _finish(writers: Mapping[str, _SplitWriter]) -> dict[str, tuple[ShardFile, ...]]:
    """Closes all splits. Where documents without tokens leave one of them too few, `train` takes what `valid` has."""
    train, valid = writers["train"], writers["valid"]
    counts = train.documents, valid.documents
    if min(counts) < 2 and counts != (1, 1):
        train.take(valid)
    if not train.documents:
        raise DataError(NO_TEXT)
    return {split: writer.finish() for split, writer in writers.items()}


class _SplitWriter:
    """Cuts one split into shards; holds the last full one back until the next has the two documents it needs."""

    def __init__(self, journal: Journal, split: str, shard_tokens: int, unk_id: int) -> None:
        self.journal, self.split, self.shard_tokens, self.unk_id = journal, split, shard_tokens, unk_id
        whole = journal.of(split)
        self._files = [entry.shard for entry in whole]
        self.documents = sum(file.documents for file in self._files)  # that have tokens
        self.tally = sum((entry.tally for entry in whole), Tally())
        self._full: list[Encoded] = []
        self._begin()

    def _begin(self) -> None:
        self._current: list[Encoded] = []
        self._documents = self._tokens = 0  # of the current shard

    def add(self, item: Encoded) -> None:
        """Append a document; one without tokens is only tallied."""
        self._append(item)
        if self._documents == 2 and self._full:
            self.journal.add(self._write(self._full))
            self._full = []
        if self._documents >= 2 and self._tokens >= self.shard_tokens:
            self._full = self._current
            self._begin()

    def take(self, other: _SplitWriter) -> None:
        """Append what another split has not written to the last shard."""
        for item in other._full + other._current:
            self._append(item)
        other._full = []
        other._begin()

    def _append(self, item: Encoded) -> None:
        self._current.append(item)
        size = len(item.document.tokens)
        self.documents += size > 0
        self._documents += size > 0
        self._tokens += size

    def finish(self) -> tuple[ShardFile, ...]:
        """Write what is left and list all shards. The journal is not told, as `take` may have moved documents."""
        lots = [self._full + self._current] if self._documents < 2 else [self._full, self._current]
        for items in lots:
            if items:
                self._write(items)
        return tuple(self._files)

    def _write(self, items: list[Encoded]) -> Entry:
        documents = [item.document for item in items if len(item.document.tokens)]
        path = self.journal.out / f"{self.split}-{len(self._files):05d}.array_record"
        new = path.with_name(path.name + ".new")
        writer = ArrayRecordWriter(str(new), "group_size:1")
        for block in pack(documents):
            writer.write(block)
        writer.close()
        sha256, size = file_hash(new), new.stat().st_size
        os.replace(new, path)
        sentences = sum(len(document.lengths) for document in documents)
        tokens = sum(len(document.tokens) for document in documents)
        shard = ShardFile(path.name, len(documents), sentences, tokens, sha256, size)
        tally = Tally.of(items, self.unk_id)
        self._files.append(shard)
        self.tally += tally
        return Entry(self.split, shard, len(items), tally)


def _samples(path: Path, tokenizer: Tokenizer) -> list[list[str]]:
    """Sentences from all over a shard, as the pieces that a model will see."""
    shard = read_shard(path)
    chosen = range(0, len(shard.sentence_starts) - 1, -(-(len(shard.sentence_starts) - 1) // SAMPLES))
    spans = [(shard.sentence_starts[i], shard.sentence_starts[i + 1]) for i in chosen]
    rows = [shard.tokens[start : min(stop, start + SAMPLE_TOKENS)].tolist() for start, stop in spans]
    return [[tokenizer.vocabulary[token] for token in row] for row in rows]


def read_shards(paths: Sequence[Path]) -> list[Shard]:
    """Whole shards, those in a bucket at the same time: each of them is waited for."""
    if not any(remote(path) for path in paths):
        return [read_shard(path) for path in paths]
    with ThreadPoolExecutor(len(paths)) as pool:
        return list(pool.map(read_shard, paths))


def read_shard(path: str | Path) -> Shard:
    """A whole shard as arrays in memory."""
    try:
        with fetched(path) as file:
            reader = ArrayRecordReader(str(file))
            records = reader.read_all()
            reader.close()
            return unpack(records)
    except (OSError, RuntimeError, ValueError, IndexError) as error:
        if number := fault_of(error):
            raise storage_error(path, number) from None
        if not remote(path):
            with suppress(OSError), reading(Path(path)):  # ArrayRecord has the system's words, and not its numbers
                Path(path).open("rb").close()
        raise DataError(f"{path}: cannot be read ({error}); {again(as_path(path).parent)}") from None
