"""Whether the files of a run or of a prepared corpus are as they were written."""

from pathlib import Path

from rich.table import Table

from bertjax.data.meta import Meta, file_hash
from bertjax.errors import AccessError, DataError, StorageError, UserError
from bertjax.paths import as_path, fetched, remote, sizes
from bertjax.storage import reading
from bertjax.train import manifest
from bertjax.train.log import answers
from bertjax.train.steps import Steps, folder_of, listed


def verify(path: str) -> None:
    """A table of all checkpoints of a run, of all shards of a corpus, or of both; raises where a file is damaged.

    So it does where one cannot be read, with the code of that.
    """
    folder = as_path(path)
    prepared = (folder / "meta.json").is_file()
    faults = _corpus(folder) if prepared else []
    if not prepared or folder_of(folder).is_dir():
        faults += _run(folder)
    damaged = [fault for fault in faults if isinstance(fault, str)]
    unread = [fault for fault in faults if isinstance(fault, UserError)]
    told = [f"{len(damaged):,} files are damaged:\n  {listed(damaged)}"] if damaged else []
    told += [f"{len(unread):,} files cannot be read:\n  {listed([str(error) for error in unread])}"] if unread else []
    if told:
        broken = [type(error) for error in unread if isinstance(error, StorageError)]
        kind = DataError if damaged else [*broken, AccessError][0]
        raise kind(f"{path}: " + "\n".join(told))


def _run(run: Path) -> list[str | UserError]:
    """Every file of every checkpoint."""
    table, found = Table("checkpoint", "files", "bytes", "is"), list[str | UserError]()
    for step in Steps(run).numbers:
        folder, found_here, faults = folder_of(run, step), dict[str, int](), list[str | UserError]()
        try:
            with reading(folder):
                found_here = sizes(folder)
            faults += manifest.verdicts(folder, manifest.parts(folder))
        except UserError as error:
            if remote(folder):
                raise
            faults.append(error)
        table.add_row(str(step), f"{len(found_here):,}", f"{sum(found_here.values()):,}", _verdict(faults))
        found += [fault if isinstance(fault, UserError) else f"checkpoints/{step}/{fault}" for fault in faults]
    answers.print(table)
    return found


def _verdict(faults: list[str | UserError]) -> str:
    """Of a checkpoint."""
    unread = sum(isinstance(fault, UserError) for fault in faults)
    damaged = len(faults) - unread
    told = [f"damaged: {damaged:,} files"] if damaged else []
    return ", ".join(told + ([f"cannot be read: {unread:,} files"] if unread else [])) or "whole"


def _corpus(folder: Path) -> list[str | UserError]:
    """Every shard, and the tokenizer."""
    meta, table, found = Meta.load(folder), Table("shard", "tokens", "is"), list[str | UserError]()
    for shard in [shard for shards in meta.splits.values() for shard in shards]:
        fault = _fault(folder / shard.name, shard.sha256)
        verdict = "cannot be read" if isinstance(fault, UserError) else f"damaged: {fault}" if fault else "whole"
        table.add_row(shard.name, f"{shard.tokens:,}", verdict)
        found += [fault if isinstance(fault, UserError) else f"{shard.name}: {fault}"] if fault else []
    try:
        with reading(folder / "tokenizer"):
            meta.tokenizer(folder)
    except (StorageError, AccessError) as error:
        found.append(error)
    except (UserError, FileNotFoundError) as error:
        found.append(f"tokenizer: {error}")
    answers.print(table)
    return found


def _fault(path: Path, sha256: str) -> str | UserError:
    """What is not as it should be with a shard, if anything."""
    try:
        with fetched(path) as file, reading(path):
            return "" if file_hash(file) == sha256 else "other bytes than were written"
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except UserError as error:
        if remote(path):
            raise
        return error
