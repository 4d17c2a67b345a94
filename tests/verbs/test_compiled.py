"""The cache of compiled programs: on by default, in the user's folder, and bit-exact; and what is not kept there."""

import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import logged

from bertjax import compiled, load
from bertjax.compiled import WORTH_ONEDNN, inference, repeatable, step_options

# A command in a process of its own; the last line tells how often a program was looked for and not found.
PROGRAM = """
import json, sys
import jax
from bertjax import cli
events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event.rsplit("/", 1)[-1]))
code = cli.run(sys.argv[1:])
print(json.dumps({name: events.count(name) for name in ("compile_requests_use_cache", "cache_misses", "cache_hits")}))
sys.exit(code)
"""


def without_cache():
    """The environment as a user has it."""
    return {n: v for n, v in os.environ.items() if not n.startswith(("JAX_COMPILATION", "JAX_PERSISTENT"))}


@pytest.fixture
def start(home, data):
    """start(cache folder, out) -> how many programs a short run asked for, compiled, and found."""

    def run(cache, out, *options, variable="XDG_CACHE_HOME"):
        command = [sys.executable, "-c", PROGRAM, "pretrain", home / "pretrain.py", "--data", data, "--out", out]
        done = subprocess.run(
            [*map(str, command), "--steps", "3", "--eval-every", "2", *options],
            env={**without_cache(), variable: str(cache)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


def losses(folder):
    return [line["loss"].hex() for line in logged(folder)]


@pytest.mark.parametrize(
    ("variable", "folder"),
    [
        pytest.param("XDG_CACHE_HOME", "bertjax/compiled", marks=pytest.mark.late),
        pytest.param("JAX_COMPILATION_CACHE_DIR", "", marks=pytest.mark.slow),  # one that is named keeps as much
    ],
)
def test_a_second_start_compiles_nothing_and_logs_the_same_bits(start, tmp_path, variable, folder):
    cold = start(tmp_path, tmp_path / "cold", variable=variable)
    warm = start(tmp_path, tmp_path / "warm", variable=variable)
    assert list((tmp_path / folder).glob("jit_step-*"))
    assert cold["cache_misses"] > 3 and warm["cache_misses"] == 0
    assert warm["cache_hits"] == warm["compile_requests_use_cache"] > 3
    assert losses(tmp_path / "cold") == losses(tmp_path / "warm") and len(losses(tmp_path / "cold")) == 6


@pytest.mark.late
def test_another_rate_and_other_steps_compile_nothing(start, tmp_path):
    start(tmp_path, tmp_path / "cold")
    other = start(
        tmp_path, tmp_path / "other", "--steps", "4", "--optimizer.peak-lr", "1e-4", "--optimizer.warmup", "2"
    )
    assert other["cache_misses"] == 0 and losses(tmp_path / "cold") != losses(tmp_path / "other")


def folder(**variables):
    """Where a process would keep its programs."""
    program = "import jax; from bertjax.compiled import keep_compiled; keep_compiled();"
    program += "print(jax.config.jax_compilation_cache_dir, jax.config.jax_compilation_cache_max_size)"
    environment = {**without_cache(), **{name: str(value) for name, value in variables.items()}}
    return subprocess.check_output([sys.executable, "-c", program], env=environment, text=True).split()


def test_the_folder_is_the_users_and_bounded(tmp_path):
    assert folder(XDG_CACHE_HOME=tmp_path) == [f"{tmp_path}/bertjax/compiled", str(4 << 30)]
    assert folder(HOME=tmp_path, XDG_CACHE_HOME="") == [f"{tmp_path}/.cache/bertjax/compiled", str(4 << 30)]


def test_the_users_own_choice_stands(tmp_path):
    assert folder(XDG_CACHE_HOME=tmp_path / "unused", JAX_COMPILATION_CACHE_DIR=tmp_path)[0] == str(tmp_path)
    assert not (tmp_path / "unused").exists()


def test_a_home_that_cannot_be_written_is_no_fault(tmp_path):
    (tmp_path / "file").write_text("")
    assert folder(XDG_CACHE_HOME=tmp_path / "file")[0] == "None"


def test_a_user_without_a_home_keeps_nothing(monkeypatch):
    def failing(number):
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", failing)
    assert compiled.cache_folder("compiled") is None


def test_programs_with_onednn_are_not_kept(tmp_path):
    flags = re.search(r"XLA_FLAGS='(.*)'", (Path(__file__).parents[2] / "README.md").read_text())
    assert folder(XDG_CACHE_HOME=tmp_path, XLA_FLAGS=flags[1])[0] == "None"


def test_a_step_is_compiled_at_the_first_level_and_repeatable_unless_told(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS")
    assert step_options("cpu") == {"xla_backend_optimization_level": 1}
    assert jax.jit(jnp.sin, compiler_options=step_options("cpu"))(0.0) == 0
    assert step_options("tpu") is None
    as_written = {"xla_allow_excess_precision": False}
    assert step_options("gpu") == {"xla_gpu_exclude_nondeterministic_ops": True, **as_written}
    assert jax.jit(jnp.sin, compiler_options=as_written)(0.0) == 0
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    assert step_options("cpu") is None and repeatable()
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_exclude_nondeterministic_ops=false")
    assert step_options("gpu") == as_written and not repeatable()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="oneDNN is there for x86")
def test_products_of_much_inference_are_of_onednn():
    x = jnp.ones((256, 256))
    programs = [inference(jnp.matmul, flops).lower(x, x).compile() for flops in (WORTH_ONEDNN / 2, WORTH_ONEDNN)]
    assert ['"kind":"__onednn_fusion"' in program.as_text() for program in programs] == [False, True]
    np.testing.assert_allclose(*[program(x, x) for program in programs], rtol=1e-6)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="oneDNN is there for x86")
def test_vectors_are_the_same_with_onednn_and_nothing_is_said_of_it(pretrained, monkeypatch, recwarn):
    texts, model = ["The cat sat.", "It was a dark and stormy night."], load(pretrained)
    plain = model.embed(texts)
    monkeypatch.setattr(compiled, "WORTH_ONEDNN", 0)
    np.testing.assert_allclose(model.embed(texts), plain, rtol=1e-4, atol=1e-5)
    assert not [warning for warning in recwarn if "compilation cache" in str(warning.message)]
