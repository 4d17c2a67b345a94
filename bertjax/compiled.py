"""How programs are compiled, and that they outlive the process: a second start of the same run compiles nothing."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from platform import machine
from typing import Any

import jax

MOST = 4 << 30  # bytes on disk; what was not used for longest goes first
ONEDNN = {  # the matrix products of a program on a CPU
    "xla_cpu_use_onednn": True,
    "xla_cpu_experimental_onednn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT",
}
REPEATABLE = "xla_gpu_exclude_nondeterministic_ops"
AS_WRITTEN = "xla_allow_excess_precision"  # False: what is said to be bfloat16 is so in memory
WORTH_ONEDNN = 2e12  # FLOP; some 20 CPU-s


def step_options(platform: str) -> dict[str, Any] | None:
    """What jax.jit is told for a training step on devices of a platform, where XLA_FLAGS say nothing of it.

    On a CPU LLVM's first level makes loops as fast as those of its third (BERT-mini 0.367 for 0.365 CPU-s a step,
    BERT-base 6.25 for 6.25), and takes 0.4 CPU-s less of BERT-mini's 5.2. On a GPU cuDNN's attention may otherwise add
    its gradients up in another order each time, and what is scattered is: no run could be repeated. And the gradient of
    the activation, the widest there is, would be written as float32: 9% of the bytes of a step of BERT-base.
    """
    options: dict[str, dict[str, Any]] = {
        "cpu": {"xla_backend_optimization_level": 1},
        "gpu": {REPEATABLE: True, AS_WRITTEN: False},
    }
    told = os.environ.get("XLA_FLAGS", "")
    return {name: value for name, value in options.get(platform, {}).items() if name not in told} or None


def repeatable() -> bool:
    """Whether a step computes the same each time, and so on each device: not where XLA_FLAGS turn that off."""
    return f"{REPEATABLE}=false" not in os.environ.get("XLA_FLAGS", "").lower()


def inference(function: Callable[..., Any], flops: float, **options: Any) -> Any:  # noqa: ANN401 (as jax.jit's)
    """jax.jit of a function without gradients, which is to do `flops` in all its calls.

    Where these are many, products on an x86 CPU are those of oneDNN, which jaxlib has and does not choose: BERT-base's
    encoder takes four fifths to nine tenths of the time on Xeons, nine tenths on an EPYC. Such programs cannot be kept,
    and each start compiles them anew, in 0.5 CPU-s. A training step of BERT-base gains 2% on a Xeon, and nothing on an
    EPYC, where it takes 42% more memory.
    """
    if flops >= WORTH_ONEDNN and jax.default_backend() == "cpu" and machine() in ("x86_64", "AMD64"):
        warnings.filterwarnings("ignore", "Error writing persistent compilation cache entry.*onednn", UserWarning)
        options["compiler_options"] = ONEDNN
    return jax.jit(function, **options)


def keep_compiled() -> None:
    """Lets JAX keep what it compiles in the user's cache folder; JAX_COMPILATION_CACHE_DIR names another one.

    JAX_ENABLE_COMPILATION_CACHE=false turns it off. A program is found by its text, options, versions and kind of
    machine, and computes the same to the last bit. Those with oneDNN in them jaxlib cannot write down.
    """
    if "onednn_fusion" in os.environ.get("XLA_FLAGS", ""):
        return
    if not jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
        folder = cache_folder("compiled")
        if not folder:
            return
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_compilation_cache_max_size", MOST)
    everything = {"jax_persistent_cache_min_compile_time_secs": 0, "jax_persistent_cache_min_entry_size_bytes": -1}
    for name, least in everything.items():
        if name.upper() not in os.environ:
            jax.config.update(name, least)


def cache_folder(name: str) -> Path | None:
    """A folder of ours in the user's cache, made where it is not there; None for a home that cannot be written.

    So it is for a user who has none, as in a container that is started with a number of its own.
    """
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bertjax" / name
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return None
    return folder if os.access(folder, os.W_OK) else None
