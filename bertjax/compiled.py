"""Compiled programs outlive the process: a second start of the same run compiles nothing."""

import os
from pathlib import Path

import jax

MOST = 4 << 30  # bytes on disk; what was not used for longest goes first


def keep_compiled() -> None:
    """Lets JAX keep what it compiles in the user's cache folder; JAX_COMPILATION_CACHE_DIR names another one.

    JAX_ENABLE_COMPILATION_CACHE=false turns it off. A program is found by its text, options, versions and kind of
    machine, and computes the same to the last bit. Those with oneDNN in them jaxlib cannot write down.
    """
    if jax.config.jax_compilation_cache_dir or "onednn_fusion" in os.environ.get("XLA_FLAGS", ""):  # type: ignore[attr-defined]
        return
    folder = cache_folder("compiled")
    if not folder:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.config.update("jax_compilation_cache_max_size", MOST)


def cache_folder(name: str) -> Path | None:
    """A folder of ours in the user's cache, made where it is not there; None for a home that cannot be written."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bertjax" / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None
