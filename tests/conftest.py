"""Eight virtual devices, shapes checked by beartype, compiled programs kept between runs, golden files."""

import getpass
import json
import os
import signal
import tempfile
from importlib.metadata import version
from pathlib import Path

# Before jax is imported: XLA reads some of these once.
os.environ["JAX_PLATFORMS"] = "cpu"
if "XLA_FLAGS" not in os.environ:  # compiles in a third of the time, runs slower
    os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    if version("jaxlib").startswith("0.10."):  # later ones end at this flag: they have one way to make kernels
        os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # With these flags XLA compiles for so many cores, and the names of programs do not say so.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{tempfile.gettempdir()}/bertjax-tests-{getpass.getuser()}-{cores}"
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import jax
import jaxtyping
import pytest

from bertjax.train import steps

jax.config.update("jax_num_cpu_devices", 8)
jaxtyping.install_import_hook("bertjax.nn", "beartype.beartype")

# A shell's background ignores Ctrl-C, nohup the end of the terminal, and what tests start would inherit that: bash
# cannot trap them then.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

steps.DELETING = 0.05  # seconds that are waited at each of many damaged checkpoints
GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser):
    parser.addoption("--update-golden", action="store_true", help="write tests/golden/ anew instead of comparing")


def pytest_collection_modifyitems(items):
    """The folder with the longest files first: at the end all processes but one would wait for one of them."""
    items.sort(key=lambda item: item.path.parent.name != "verbs")


@pytest.fixture
def golden(request):
    """golden(file name, value) -> the value kept in tests/golden/; with --update-golden it is written first."""

    def read(name, value):
        path = GOLDEN / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(value if path.suffix == ".txt" else json.dumps(value, indent=1) + "\n")
        return path.read_text() if path.suffix == ".txt" else json.loads(path.read_text())

    return read


@pytest.fixture(scope="session")
def store():
    """The server that gs:// is on this machine, for this process and those it starts."""
    import fsspec
    import gcs_server

    with pytest.MonkeyPatch.context() as patch, gcs_server.serving("bkt") as server:
        for name, value in gcs_server.environment(server).items():
            patch.setenv(name, value)
        patch.setitem(fsspec.config.conf, "gcs", {"token": "anon"})
        yield server


@pytest.fixture
def cloud(store, monkeypatch):
    """The server with one empty bucket, gs://bkt; clients do not wait before they try again."""
    import gcsfs.retry

    monkeypatch.setattr(gcsfs.retry, "min", lambda *_: 0.01, raising=False)
    store.buckets.clear()
    store.buckets["bkt"] = {}
    store.calls.clear()
    store.fault = lambda method, path: None
    return store
