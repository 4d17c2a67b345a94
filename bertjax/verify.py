"""Whether the files of a run or of a prepared corpus are as they were written."""

from pathlib import Path

from rich.table import Table

from bertjax.data.meta import Meta, file_hash
from bertjax.errors import DataError, UserError
from bertjax.paths import as_path, fetched, sizes
from bertjax.train import manifest
from bertjax.train.log import answers
from bertjax.train.steps import Steps, folder_of, listed


def verify(path: str) -> None:
    """A table of all checkpoints of a run, of all shards of a corpus, or of both; raises where a file is damaged."""
    folder = as_path(path)
    prepared = (folder / "meta.json").is_file()
    faults = _corpus(folder) if prepared else []
    if not prepared or folder_of(folder).is_dir():
        faults += _run(folder)
    if faults:
        raise DataError(f"{path}: {len(faults):,} files are damaged:\n  {listed(faults)}")


def _run(run: Path) -> list[str]:
    """Every file of every checkpoint."""
    table, found = Table("checkpoint", "files", "bytes", "is"), []
    for step in Steps(run).numbers:
        folder = folder_of(run, step)
        faults = manifest.faults(folder, manifest.parts(folder))
        found_here = sizes(folder)
        verdict = f"damaged: {len(faults):,} files" if faults else "whole"
        table.add_row(str(step), f"{len(found_here):,}", f"{sum(found_here.values()):,}", verdict)
        found += [f"checkpoints/{step}/{line}" for line in faults]
    answers.print(table)
    return found


def _corpus(folder: Path) -> list[str]:
    """Every shard, and the tokenizer."""
    meta, table, found = Meta.load(folder), Table("shard", "tokens", "is"), []
    for shard in [shard for shards in meta.splits.values() for shard in shards]:
        try:
            with fetched(folder / shard.name) as file:
                fault = "" if file_hash(file) == shard.sha256 else "other bytes than were written"
        except FileNotFoundError:
            fault = "missing"
        except OSError as error:
            fault = f"cannot be read ({error.strerror})"
        table.add_row(shard.name, f"{shard.tokens:,}", f"damaged: {fault}" if fault else "whole")
        found += [f"{shard.name}: {fault}"] if fault else []
    try:
        meta.tokenizer(folder)
    except (UserError, FileNotFoundError) as error:
        found.append(f"tokenizer: {error}")
    answers.print(table)
    return found
