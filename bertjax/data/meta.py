"""meta.json: what a prepared corpus says of itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import DataError
from bertjax.parsing import is_name, parse
from bertjax.paths import as_path, fetched, remote, size, sizes, write_text

VERSION = 1
FEW_SENTENCES = 1.5  # in a document: with fewer most rows are no pair of sentences that follow each other


def again(folder: str | Path) -> str:
    """How prepared data that cannot be used are mended: `prepare` takes no folder that holds some."""
    return f"copy {folder} again from where it is whole, or remove it and run `bertjax prepare` again"


def is_count(value: object) -> bool:
    """Whether a JSON value is the number of something."""
    return type(value) is int and 0 <= value < 1 << 62


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass(frozen=True)
class ShardFile:
    """One shard as meta.json lists it."""

    name: str
    documents: int
    sentences: int
    tokens: int
    sha256: str
    bytes: int

    def __post_init__(self) -> None:
        """Raises ValueError for what no shard has, as it may come from a file."""
        if not is_name(self.name):
            raise ValueError(f"{self.name!r} is not the name of a file beside it")
        if not all(is_count(count) for count in (self.documents, self.sentences, self.tokens, self.bytes)):
            raise ValueError(f"the counts of {self.name} are not whole numbers from 0")
        if not isinstance(self.sha256, str):
            raise ValueError(f"the sha256 of {self.name} is not text")


@dataclass(frozen=True)
class Meta:
    """What meta.json says of a prepared corpus; `counts` is all that was mended or dropped, and why."""

    version: int
    tokenizer_hash: str
    vocab_size: int
    seed: int
    splits: dict[str, tuple[ShardFile, ...]]
    counts: dict[str, int]

    def save(self, folder: Path) -> None:
        """Write meta.json in one step: either all of it is there or nothing."""
        write_text(folder / "meta.json", json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, data_dir: str | Path) -> Meta:
        """The meta.json of a prepared corpus."""
        file = as_path(data_dir) / "meta.json"
        if not file.is_file():
            raise DataError(f"{data_dir}: not a prepared corpus (no meta.json); make one with `bertjax prepare`")
        try:
            data = parse(file.read_bytes(), strict=True)
            version = data["version"]
            if version != VERSION:
                raise DataError(f"{file}: version {version}, but this bertjax reads {VERSION}; {again(data_dir)}")
            splits = {split: tuple(ShardFile(**shard) for shard in shards) for split, shards in data["splits"].items()}
            meta = cls(**{**data, "splits": splits})
            if not all(map(is_count, (meta.vocab_size, meta.seed, *meta.counts.values()))):
                raise ValueError("vocab_size, seed and counts are not all whole numbers from 0")
            if not isinstance(meta.tokenizer_hash, str):
                raise ValueError("tokenizer_hash is not text")
            return meta
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(f"{file}: damaged ({error!r}); {again(data_dir)}") from None

    def faults(self, folder: Path) -> list[str]:
        """A line for each shard that is not there, or not as long as it was written; none of them is read."""
        there = sizes(folder) if remote(folder) else None
        found = []
        for shard in (shard for shards in self.splits.values() for shard in shards):
            length = size(folder / shard.name) if there is None else there.get(shard.name)
            if length is None:
                found.append(f"{shard.name}: missing")
            elif length != shard.bytes:
                found.append(f"{shard.name}: {length:,} bytes, {shard.bytes:,} were written")
        return found

    def tokenizer(self, folder: Path) -> Tokenizer:
        """That of the folder, which must be the one its shards were made with."""
        with fetched(folder / "tokenizer") as here:
            tokenizer = Tokenizer.load(here)
        if tokenizer.hash != self.tokenizer_hash:
            raise DataError(f"{folder}/tokenizer is not the one the data was made with; {again(folder)}")
        return tokenizer

    @property
    def content_hash(self) -> str:
        """SHA-256 over the shards of all splits: equal for equal tokens, wherever the folder lies."""
        listed = [(split, file.sha256) for split, files in sorted(self.splits.items()) for file in files]
        return hashlib.sha256(json.dumps(listed).encode()).hexdigest()

    def total(self, split: str, what: str) -> int:
        """Sum over the shards of a split: total("train", "tokens")."""
        return sum(getattr(shard, what) for shard in self.splits[split])


def sentences_a_document(metas: Iterable[Meta]) -> float:
    """Over what these corpora have to train on; 1 says that no document has two."""
    metas = list(metas)
    sentences, documents = (sum(meta.total("train", what) for meta in metas) for what in ("sentences", "documents"))
    return sentences / max(1, documents)
