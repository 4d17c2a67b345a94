"""JSON from files that nobody vouches for: whatever is wrong with it, one kind of exception."""

import json
import re
from typing import Any

_HALF = re.compile(r"\\u[dD][89a-fA-F]")  # of a pair of surrogates, or a whole pair


def parse(data: bytes | str, *, strict: bool = False) -> Any:  # noqa: ANN401 (any JSON value)
    """A JSON value; ValueError where it is none, also for brackets or numbers that Python cannot hold.

    Half a pair of surrogates, which no UTF-8 holds, becomes "?". Where `strict`, as of configs and vocabularies, it is
    refused, and so is a key that stands twice in an object.
    """
    text = data.decode("utf-8-sig") if isinstance(data, bytes) else data
    try:
        value = json.loads(text, object_pairs_hook=_once if strict else None)
        return _mended(value, strict) if _HALF.search(text) else value
    except RecursionError:
        raise ValueError("brackets in brackets in brackets") from None


def is_name(value: object) -> bool:
    """Whether a value from a file names a file beside it, and can lead nowhere else."""
    return isinstance(value, str) and bool(re.fullmatch(r"[^/\\\0.][^/\\\0]{0,254}", value)) and value.isprintable()


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:80]!r} stands twice in an object")
    return made


def _mended(value: Any, strict: bool) -> Any:  # noqa: ANN401 (any JSON value)
    if isinstance(value, dict):
        return {_mended(key, strict): _mended(item, strict) for key, item in value.items()}
    if isinstance(value, list):
        return [_mended(item, strict) for item in value]
    if not isinstance(value, str) or value.isascii():
        return value
    mended = value.encode("utf-8", "replace").decode()
    if strict and mended != value:
        raise ValueError(f"half a pair of surrogates in {value[:80]!r}")
    return mended
