"""A prepared corpus on disk: unmasked tokens in ArrayRecord shards beside a meta.json that says what they are.

A shard holds whole documents, always two or more of them, so that every shard has negatives for NSP. A single read
costs in proportion to the records of a file, so these are large blocks and a shard is read whole.
"""

from __future__ import annotations

import hashlib
import heapq
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from itertools import chain
from pathlib import Path

from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from bertjax.data import encode, parallel
from bertjax.data.blocks import Document, Shard, pack, unpack
from bertjax.data.meta import AGAIN, VERSION, Meta, ShardFile
from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import ConfigError, DataError

EMPTY_SENTENCES = "sentences without tokens (dropped)"
EMPTY_DOCUMENTS = "documents without tokens (dropped)"


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
    progress: Callable[[int, int], None] = lambda documents, tokens: None,
) -> Meta:
    """Tokenise documents into train-*.array_record, valid-*.array_record, tokenizer/ and, last, meta.json.

    A document is a list of lines, and `sentences` gives the sentences of these; by default they are the lines.

    A share `held_out` of the documents, drawn from `seed`, goes to `valid`: at least two when there are four or
    more. `workers` processes share the work; what is written does not depend on their number. `progress` hears of
    (documents, tokens) so far; `counts` gathers what is dropped and goes into the meta.
    """
    out = Path(out)
    if not 0 <= held_out < 0.5:
        raise ConfigError(f"held_out={held_out}: the share of held-out documents must be from 0 to below 0.5")
    if (out / "meta.json").exists():
        raise ConfigError(f"{out}: holds a prepared corpus already; choose another folder or remove this one")
    out.mkdir(parents=True, exist_ok=True)
    writers = {split: _SplitWriter(out, split, shard_tokens) for split in ("train", "valid")}
    written = tokens = 0
    lots = encode.lots(_split(documents, held_out, seed))
    with closing(parallel.ordered(encode.Encoder(tokenizer, sentences), lots, workers)) as encoded:
        for split, document, _, dropped in chain.from_iterable(encoded):
            counts.update({EMPTY_SENTENCES: dropped} if dropped else {})
            if not len(document.tokens):
                counts[EMPTY_DOCUMENTS] += 1
                continue
            writers[split].add(document)
            written += 1
            tokens += len(document.tokens)
            progress(written, tokens)
    splits = _finish(writers)
    tokenizer.save(out / "tokenizer")
    meta = Meta(VERSION, tokenizer.hash, tokenizer.vocab_size, seed, splits, dict(counts))
    meta.save(out)
    return meta


def _split(documents: Iterable[list[str]], held_out: float, seed: int) -> Iterator[encode.Raw]:
    """("train" or "valid", document): each draws a number from its index, and draws below `held_out` are valid.

    The three lowest draws wait until the end, when it is known whether the corpus has documents enough to hold out.
    """
    waiting: list[tuple[float, int, list[str]]] = []  # a heap, highest draw first
    train = valid = 0
    for index, document in enumerate(documents):
        heapq.heappush(waiting, (-_draw(seed, index), index, document))
        if len(waiting) > 3:
            negative, _, document = heapq.heappop(waiting)
            held = -negative < held_out and train > valid + 2
            train, valid = train + (not held), valid + held
            yield "valid" if held else "train", document
    enough = held_out > 0 and train + valid + len(waiting) >= 4
    for rank, (_, _, document) in enumerate(sorted(waiting, reverse=True)):
        yield "valid" if enough and rank < 2 else "train", document


def _draw(seed: int, index: int) -> float:
    digest = hashlib.blake2b(f"{seed}:{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _finish(writers: Mapping[str, _SplitWriter]) -> dict[str, tuple[ShardFile, ...]]:
    """Closes all splits. Where documents without tokens leave one of them too few, `train` takes what `valid` has."""
    train, valid = writers["train"], writers["valid"]
    if valid.documents == 1 or train.documents < 2:
        train.take(valid)
    if not train.documents:
        raise DataError("the corpus has no text; check that the files are the right ones and not empty")
    if train.documents == 1:
        raise DataError(
            "the corpus is a single document, so next sentence prediction has no negatives; "
            "put blank lines between documents, or give more files"
        )
    return {split: tuple(writer.finish()) for split, writer in writers.items()}


class _SplitWriter:
    """Cuts one split into shards; holds the last full one back until the next has the two documents it needs."""

    def __init__(self, out: Path, split: str, shard_tokens: int) -> None:
        self.out, self.split, self.shard_tokens = out, split, shard_tokens
        self._files: list[ShardFile] = []
        self._full: list[Document] = []
        self._current: list[Document] = []
        self._tokens = 0  # of the current shard
        self.documents = 0

    def add(self, document: Document) -> None:
        """Append a document."""
        self.documents += 1
        self._current.append(document)
        self._tokens += len(document.tokens)
        if len(self._current) == 2 and self._full:
            self._write(self._full)
            self._full = []
        if len(self._current) >= 2 and self._tokens >= self.shard_tokens:
            self._full, self._current, self._tokens = self._current, [], 0

    def take(self, other: _SplitWriter) -> None:
        """Append what another split has not written."""
        for document in other._full + other._current:
            self.add(document)
        other._full, other._current = [], []

    def finish(self) -> list[ShardFile]:
        """Write what is left and list all shards."""
        lots = [self._full + self._current] if len(self._current) < 2 else [self._full, self._current]
        for documents in lots:
            if documents:
                self._write(documents)
        return self._files

    def _write(self, documents: list[Document]) -> None:
        path = self.out / f"{self.split}-{len(self._files):05d}.array_record"
        new = path.with_name(path.name + ".new")
        writer = ArrayRecordWriter(str(new), "group_size:1")
        for block in pack(documents):
            writer.write(block)
        writer.close()
        with new.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        os.replace(new, path)
        sentences = sum(len(document.lengths) for document in documents)
        tokens = sum(len(document.tokens) for document in documents)
        self._files.append(ShardFile(path.name, len(documents), sentences, tokens, sha256))


def read_shard(path: str | Path) -> Shard:
    """A whole shard as arrays in memory."""
    try:
        reader = ArrayRecordReader(str(path))
        records = reader.read_all()
        reader.close()
    except (OSError, RuntimeError, ValueError, IndexError) as error:
        raise DataError(f"{path}: cannot be read ({error}); {AGAIN}") from None
    return unpack(records)
