"""Reading a tokenizer's files, bounded and with one clear message for what is wrong with them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from bertjax.data.specials import Specials
from bertjax.errors import DataError
from bertjax.parsing import parse

MAX_BYTES = 64 << 20
SMALL = 4 << 20  # bytes that a file of settings may have
CONFIG = "tokenizer_config.json"
ENDINGS = (".txt", ".json", ".model")


def hub_hint(path: str | Path) -> str:
    """What there is to add where a path that may be meant as a name of the Hugging Face Hub is not there, or ""."""
    text = str(path)
    owner, slash, _ = text.partition("/")
    is_path = Path(text).suffix in ENDINGS or (slash and Path(owner).is_dir())
    if is_path or not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", text):
        return ""
    return f". Names of the Hugging Face Hub are not fetched: `hf download {text} --local-dir DIR` first, and give DIR"


def read_bytes(file: Path, what: str, most: int = MAX_BYTES) -> bytes:
    """A file of a size that a vocabulary may have."""
    if not file.is_file():
        raise DataError(f"{file}: no such vocabulary; give a {what} or a folder that has one{hub_hint(file)}")
    if file.stat().st_size > most:
        raise DataError(f"{file}: over {most >> 20} MB, so not a {what}")
    return file.read_bytes()


def read_object(file: Path, what: str, most: int = SMALL) -> dict[str, Any]:
    """A JSON object in a file of at most so many bytes."""
    try:
        data = parse(read_bytes(file, what, most), strict=True)
    except ValueError as error:
        raise DataError(f"{file}: not a JSON object ({error}); mend it or remove it") from None
    if not isinstance(data, dict):
        raise DataError(f"{file}: not a JSON object (a {type(data).__name__}); mend it or remove it")
    return data


def read_config(folder: Path) -> dict[str, Any]:
    """The tokenizer_config.json beside a vocabulary; empty where there is none."""
    file = folder / CONFIG
    return read_object(file, CONFIG) if file.exists() else {}


def write_config(folder: str | Path, tokenizer_class: str, specials: Specials, **options: int) -> None:
    """Makes the folder with a tokenizer_config.json whose keys other tools know."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = {f"{role}_token": name for role, name in specials._asdict().items()}
    config = {"tokenizer_class": tokenizer_class, **options, **names}
    (folder / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")


def in_order(rows: dict[str, Any], file: Path) -> list[str]:
    """The tokens of a {token: id} table by their ids, which must be 0, 1, 2 ... each once."""
    if not rows:
        raise DataError(f"{file}: the vocabulary is empty")
    tokens: list[str | None] = [None] * len(rows)
    for token, row in rows.items():
        if type(row) is not int or not 0 <= row < len(rows):
            raise DataError(f"{file}: {token!r} has id {row!r}; {len(rows)} tokens have the ids 0 to {len(rows) - 1}")
        if tokens[row] is not None:
            raise DataError(f"{file}: {token!r} and {tokens[row]!r} have the same id {row}; every token has its own")
        tokens[row] = token
    return [token for token in tokens if token is not None]
