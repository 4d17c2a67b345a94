"""What lets a killed `prepare` go on: which shards are whole, and how many documents of each split they took."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from bertjax.data.encode import Raw
from bertjax.data.meta import ShardFile, file_hash, is_count
from bertjax.data.tally import Tally
from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import ConfigError, DataError
from bertjax.parsing import parse
from bertjax.paths import TEMPORARY, write_text

SPLITS = ("train", "valid")
RUN = ("config.json", "checkpoints")  # of a run, whose tokenizer would be written over
WRITTEN = ("tokenizer", "train-*", "valid-*", "report.*")
LEFTOVERS = ("train-*", "valid-*", "report.*", f"*{TEMPORARY}", "tokenizer.new")


@dataclass(frozen=True)
class Entry:
    """A whole shard; `taken` documents of its split went into it, those without tokens among them."""

    split: str
    shard: ShardFile
    taken: int
    tally: Tally


class Journal:
    """prepare.jsonl, in the folder that is being prepared until meta.json is there.

    Its first line tells of the preparation: `inputs`, a hash of the text and the options, and the tokenizer; each
    further one is an Entry. The entries of a preparation of other inputs, or of none (""), are not taken up.
    """

    def __init__(self, out: Path, inputs: str) -> None:
        self.out, self.file, self.inputs = out, out / "prepare.jsonl", inputs
        self._check_unfinished()
        self.entries: list[Entry] = []
        self.foreign = self.file.exists()  # whether there are leftovers that are not ours
        self._tokenizer_hash = ""
        if self.foreign:
            self._read()

    def _check_unfinished(self) -> None:
        if (self.out / "meta.json").exists():
            raise ConfigError(f"{self.out}: holds a prepared corpus already; choose another folder or remove this one")
        taken = RUN if self.file.exists() else RUN + WRITTEN
        if found := sorted(path.name for name in taken for path in self.out.glob(name)):
            raise ConfigError(
                f"{self.out}: holds {', '.join(found[:5])}, not of a preparation, over which one would write; choose a "
                "new or empty folder. Nothing was changed"
            )

    def _read(self) -> None:
        first, *rest = self.file.read_bytes().split(b"\n")
        damaged = set()  # splits
        with suppress(ValueError, TypeError, KeyError):  # a line that was being written
            head = parse(first)
            if not self.inputs or head["inputs"] != self.inputs:
                return
            self.foreign, self._tokenizer_hash = False, head["tokenizer"]
            for line in filter(None, rest):
                data = parse(line)
                data |= {"shard": ShardFile(**data["shard"]), "tally": Tally(**data["tally"])}
                entry = Entry(**data)
                if entry.split not in SPLITS or not is_count(entry.taken):
                    raise ValueError("not of a shard")
                path = self.out / entry.shard.name
                if path.is_file() and file_hash(path) == entry.shard.sha256 and entry.split not in damaged:
                    self.entries.append(entry)
                else:
                    damaged.add(entry.split)

    def tokenizer(self) -> Tokenizer | None:
        """The one that was trained before the preparation was killed."""
        with suppress(DataError):
            tokenizer = Tokenizer.load(self.out / "tokenizer") if self._tokenizer_hash else None
            return tokenizer if tokenizer and tokenizer.hash == self._tokenizer_hash else None
        return None

    @contextmanager
    def open(self, tokenizer: Tokenizer) -> Iterator[None]:
        """While it is open no other process can prepare in the folder; it goes when all went well."""
        self.out.mkdir(parents=True, exist_ok=True)
        with _locked(self.out):
            self._check_unfinished()
            self._begin(tokenizer)
            yield
            self.file.unlink()

    def _begin(self, tokenizer: Tokenizer) -> None:
        """Write down what is taken up, remove what cannot be, and save the tokenizer.

        The journal first: what lies in a folder with one may be removed.
        """
        if tokenizer.hash != self._tokenizer_hash:
            self.entries = []
        lines = [json.dumps({"inputs": self.inputs, "tokenizer": tokenizer.hash}), *map(_line, self.entries)]
        write_text(self.file, "".join(f"{line}\n" for line in lines))
        kept = {entry.shard.name for entry in self.entries}
        for path in (path for pattern in LEFTOVERS for path in self.out.glob(pattern) if path.name not in kept):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        new, folder = self.out / "tokenizer.new", self.out / "tokenizer"
        tokenizer.save(new)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(new, folder)

    def add(self, entry: Entry) -> None:
        """A shard is whole."""
        with self.file.open("a", encoding="utf-8") as stream:
            stream.write(f"{_line(entry)}\n")

    def of(self, split: str) -> list[Entry]:
        """The whole shards of a split."""
        return [entry for entry in self.entries if entry.split == split]

    def remaining(self, documents: Iterable[Raw]) -> Iterator[Raw]:
        """The documents that are in no whole shard."""
        taken = {split: sum(entry.taken for entry in self.of(split)) for split in SPLITS}
        for split, lines in documents:
            if taken[split]:
                taken[split] -= 1
            else:
                yield split, lines


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise ConfigError(f"{folder}: another process prepares a corpus there; choose another folder") from None
    finally:
        os.close(handle)


def _line(entry: Entry) -> str:
    return json.dumps(asdict(entry))
