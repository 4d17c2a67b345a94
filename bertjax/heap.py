"""Memory that is given back: to the process and not to the system, and not looked for all the time."""

import ctypes
import gc
import importlib.util
import os

TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8  # of glibc's mallopt(3)
SELDOM = 20_000  # objects that may hold others and that stay
ACCELERATORS = ("libtpu", "jax_plugins")  # what jax finds TPUs and GPUs by


def keep_freed() -> None:
    """Lets glibc keep freed memory for the next step, where the devices are CPUs; before jax is imported.

    XLA asks for the temporary arrays of a program anew each time it runs. What is so large glibc takes from the system
    and gives back, and every page of it is cleared and mapped again: 50,000 page faults in a step of BERT-mini, a fifth
    of its CPU time. So: no memory of their own for large arrays, none given back, one heap for all threads. Whoever
    sets MALLOC_... or GLIBC_TUNABLES himself is left alone, and so are other C libraries, which have no such call.
    """
    chosen = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if chosen or not mallopt or not _on_cpu():
        return
    for parameter, value in ((ARENA_MAX, 1), (MMAP_MAX, 0), (TRIM_THRESHOLD, -1)):
        mallopt(parameter, value)


def collect_seldom() -> None:
    """Lets Python look for objects that hold each other after so many new ones, in place of its 700.

    Among those that have stayed it looks after 50 such searches, in place of 10. Tracing a model makes a million, and
    most of them stay: 500 searches find next to nothing on the way to the first step of BERT-mini, and take 0.33 CPU-s.
    """
    gc.set_threshold(SELDOM, 50, 50)


def _on_cpu() -> bool:
    if platforms := os.environ.get("JAX_PLATFORMS"):
        return platforms == "cpu"
    return not any(importlib.util.find_spec(name) for name in ACCELERATORS)
