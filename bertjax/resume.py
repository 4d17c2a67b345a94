"""Whether a command goes on with a run or would make another one of it."""

from dataclasses import fields

from bertjax.config import SPELLED
from bertjax.errors import ConfigError

# What may differ when a run is taken up again; all else would make another run of it.
MAY_CHANGE = {"data", "out", "mesh", "workers", "baseline", "remat", "attention", "profile", "guard"}
MAY_CHANGE |= {"seeds", "grid", "from_mnli"}  # of a suite, not of its runs
MAY_CHANGE |= {"log_every", "eval_every", "eval_batches", "save_every", "keep_last"}


def check_resume(old: object, new: object, run: str) -> None:
    """Raises, naming every key with its old and new value, where a resumed run would not be the same run."""
    changed = list(_differences(old, new, ""))
    if changed:
        listed = "\n  ".join(f"{key}: was {was!r}, now {now!r}" for key, was, now in changed)
        raise ConfigError(
            f"{run} was begun with another configuration:\n  {listed}\n"
            "Give the old values to resume it, or another --out to begin anew."
        )


def _differences(old: object, new: object, prefix: str) -> list[tuple[str, object, object]]:
    if type(old) is not type(new) or not hasattr(old, "__dataclass_fields__"):
        name = prefix.rstrip(".")
        return [] if old == new else [(SPELLED.get(name, name), old, new)]
    found = []
    for f in fields(old):  # type: ignore[arg-type]
        if prefix or f.name not in MAY_CHANGE:
            found += _differences(getattr(old, f.name), getattr(new, f.name), f"{prefix}{f.name}.")
    return found
