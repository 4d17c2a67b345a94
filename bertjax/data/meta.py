"""meta.json: what a prepared corpus says of itself."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from bertjax.errors import DataError

VERSION = 1
AGAIN = "run `bertjax prepare` again"


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
        new = folder / "meta.json.new"
        new.write_text(json.dumps(asdict(self), indent=1) + "\n")
        os.replace(new, folder / "meta.json")

    @classmethod
    def load(cls, data_dir: str | Path) -> Meta:
        """The meta.json of a prepared corpus."""
        file = Path(data_dir) / "meta.json"
        if not file.is_file():
            raise DataError(f"{data_dir}: not a prepared corpus (no meta.json); make one with `bertjax prepare`")
        try:
            data = json.loads(file.read_bytes())
            version = data["version"]
            if version != VERSION:
                raise DataError(f"{file}: version {version}, but this bertjax reads {VERSION}; {AGAIN}")
            splits = {split: tuple(ShardFile(**shard) for shard in shards) for split, shards in data["splits"].items()}
            return cls(**{**data, "splits": splits})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(f"{file}: damaged ({error!r}); {AGAIN}") from None

    @property
    def content_hash(self) -> str:
        """SHA-256 over the shards of all splits: equal for equal tokens, wherever the folder lies."""
        listed = [(split, file.sha256) for split, files in sorted(self.splits.items()) for file in files]
        return hashlib.sha256(json.dumps(listed).encode()).hexdigest()

    def total(self, split: str, what: str) -> int:
        """Sum over the shards of a split: total("train", "tokens")."""
        return sum(getattr(shard, what) for shard in self.splits[split])
