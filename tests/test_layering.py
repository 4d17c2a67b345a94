"""Who may import whom, read from the source: dependencies point downward, heavy libraries stay in their module."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "bertjax"
LEVELS = (
    ("errors", "parsing", "heap", "help"),
    ("contracts", "initial", "keys", "registry", "recipe", "chips", "compiled", "storage", "bucket"),
    ("paths", "lock"),
    ("bucket_lock", "supervise"),
    ("nn", "data"),
    ("models", "train"),
    ("objectives", "tasks"),
    ("config", "jsonio", "hf", "memory"),
    ("saved", "resume", "use", "automesh", "folders"),
    ("session", "scoring", "card"),
    ("pretraining",),
    ("run", "preparation", "api", "convert", "doctor"),
    ("report", "suite", "plan", "verify"),
    ("look",),
    ("verbs",),
    ("cli",),
    ("__main__",),
)
LEVEL = {name: number for number, names in enumerate(LEVELS) for name in names}
# Library -> the only places that may import it ("train/" is all of train).
ONLY_IN = {
    "flax": ("nn/", "models/", "objectives/", "contracts.py"),
    "orbax": ("train/checkpoint.py", "train/saver.py"),
    "etils": ("train/checkpoint.py", "bucket.py"),
    "fsspec": ("bucket.py",),
    "gcsfs": ("bucket.py",),
    "grain": ("data/loader.py",),
    "absl": ("data/loader.py",),
    "array_record": ("data/shards.py",),
    "pyarrow": ("data/formats.py",),
    "zstandard": ("data/lines.py",),
    "tensorflow_datasets": ("data/tfds.py",),
    "tyro": ("verbs.py",),
    "safetensors": ("hf/",),
    "google_crc32c": ("hf/tf1.py", "train/manifest.py"),
    "seqeval": ("tasks/ner.py",),
    "sentencepiece": ("data/spiece.py",),
    "tokenizers": ("data/wordpiece.py", "data/bpe.py", "data/library.py"),
    "rich": (
        "plan/",
        "train/log.py",
        "preparation.py",
        "report.py",
        "scoring.py",
        "suite.py",
        "doctor.py",
        "verify.py",
    ),
    "optax": ("train/",),
    "xxhash": ("train/manifest.py",),
    "torch": (),
    "tensorflow": (),
    "transformers": (),
}
DATA_KNOWS = ("bertjax.data", "bertjax.errors", "bertjax.parsing", "bertjax.paths", "bertjax.storage")
TRAIN_KNOWS = (
    "train",
    "compiled",
    "contracts",
    "initial",
    "keys",
    "errors",
    "parsing",
    "lock",
    "bucket_lock",
    "storage",
    "paths",
    "bucket",
)
FILES = sorted(ROOT.rglob("*.py"))
BENCH = sorted((ROOT.parent / "bench").rglob("*.py"))


def imports(path):
    """(module, line) of every import, those inside functions too; not what only a type checker sees."""
    for node in _code(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}:{node.lineno}: imports are absolute"
            # `from bertjax import tasks` names a module, `from bertjax.data.plan import plan_pairs` a name in one.
            inside = [f".{alias.name}" for alias in node.names] if node.module == "bertjax" else [""]
            yield from ((node.module + name, node.lineno) for name in inside)


def _code(node):
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield from _code(child)


def part(path):
    return path.relative_to(ROOT).with_suffix("").parts[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_dependencies_point_downward(path):
    if part(path) == "__init__":  # bertjax/__init__.py gives names of api when they are first asked for
        assert {module for module, _ in imports(path)} <= {"typing", "bertjax.api"}
        return
    assert part(path) in LEVEL, f"{path}: give it a level in LEVELS"
    for module, line in imports(path):
        if module.startswith("bertjax."):
            other = module.split(".")[1]
            allowed = other == part(path) or LEVEL[other] < LEVEL[part(path)]
            assert allowed, f"{path}:{line}: {part(path)} must not import {module}"


def test_contributing_tells_the_levels():
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", (ROOT.parent / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    told = [(int(number), tuple(re.sub(r" \(.*?\)|`", "", names).split(", "))) for number, names in rows]
    assert told == list(enumerate(LEVELS))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_libraries_stay_in_their_place(path):
    name = path.relative_to(ROOT).as_posix()
    for module, line in imports(path):
        places = ONLY_IN.get(module.split(".")[0])
        assert places is None or any(name == p or (p.endswith("/") and name.startswith(p)) for p in places), (
            f"{path}:{line}: {module} is imported only in {places}"
        )


def dependencies(package):
    """Everything that the modules of a package import."""
    return {module: f"{path}:{line}" for path in (ROOT / package).rglob("*.py") for module, line in imports(path)}


def test_data_knows_neither_jax_nor_what_imports_it():
    for module, where in dependencies("data").items():
        assert module.split(".")[0] not in ("jax", "flax", "jaxtyping", "optax"), where
        assert not module.startswith("bertjax.") or module.startswith(DATA_KNOWS), where


def test_tasks_know_neither_jax_nor_flax():
    for module, where in dependencies("tasks").items():
        assert module.split(".")[0] not in ("jax", "flax"), where


def test_train_knows_arrays_and_contracts_only():
    for module, where in dependencies("train").items():
        if module.startswith("bertjax."):
            assert module.split(".")[1] in TRAIN_KNOWS, where


def test_objectives_build_their_encoder_without_knowing_its_family():
    for module, where in dependencies("objectives").items():
        assert not module.startswith("bertjax.models"), where


def test_modules_are_short():
    for path in [*FILES, *BENCH]:
        assert len(path.read_text().splitlines()) <= 300, path
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{path}:{node.lineno}: {node.name} is over 60 lines"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_text_is_utf_8_whatever_the_locale(path):
    for node in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
        given = [value.value for value in node.args if isinstance(value, ast.Constant)]
        name = getattr(node.func, "attr", None) or getattr(node.func, "id", "")
        text = name in ("read_text", "write_text") and isinstance(node.func, ast.Attribute)
        text |= name in ("open", "fdopen") and any(re.fullmatch(r"[rwax]\+?t?", str(mode)) for mode in given)
        told = "utf-8" in given or any(keyword.arg == "encoding" for keyword in node.keywords)
        assert told or not text, f"{path}:{node.lineno}: {name} without an encoding"


def modules_after(code):
    program = f"import sys\n{code}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_bertjax_is_light():
    assert not {"jax", "flax", "numpy", "orbax"} & modules_after("import bertjax")


def test_data_runs_where_there_is_no_jax():
    names = ", ".join(f"bertjax.data.{p.stem}" for p in (ROOT / "data").glob("*.py") if p.stem != "__init__")
    assert not {"jax", "flax"} & modules_after(f"import {names}")


def test_importing_every_module_changes_nothing_for_others():
    names = [".".join(("bertjax", *p.relative_to(ROOT).with_suffix("").parts)) for p in FILES if p.stem[0] != "_"]
    seen = "sys.unraisablehook, log.level, log.filters[:], logging.getLogger('asyncio').filters[:], warnings.filters[:]"
    others = (
        "import logging, warnings, flax.linen, jax, optax, orbax.checkpoint, grain\nlog = logging.getLogger('absl')"
    )
    modules_after(f"{others}\nbefore = {seen}\nimport {', '.join(names)}\nassert before == ({seen}), ({seen})")


def test_importing_every_module_touches_no_device():
    names = [".".join(("bertjax", *p.relative_to(ROOT).with_suffix("").parts)) for p in FILES if p.stem[0] != "_"]
    modules_after(f"import {', '.join(names)}\nimport jax._src.xla_bridge as b\nassert not b._backends")
