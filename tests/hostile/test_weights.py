"""Hostile weights and configs of Hugging Face's: refused at once, and no code of theirs is ever run."""

import json
import os
import resource
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hf_directories import configure, export

from bertjax import cli, registry
from bertjax.config import Finetune
from bertjax.errors import ConfigError, DataError
from bertjax.hf.tensors import MAX_HEADER, Tensors
from bertjax.jsonio import from_json, to_json
from bertjax.saved import open_run

X = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


def raw(folder, header, body=b"1234", length=None):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    data = struct.pack("<Q", len(header) if length is None else length) + header + body
    (folder / "model.safetensors").write_bytes(data)


def many(count):
    """Empty tensors: a long header, no numbers."""
    one = '{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    return ("{" + ",".join(f'"{i}":{one}' for i in range(count)) + "}").encode()


REFUSED = {
    "2^63 bytes of header": ({"x": X}, b"1234", 1 << 63),
    "2^64 - 1 bytes of header": ({"x": X}, b"1234", (1 << 64) - 1),
    "a header over the cap": (b" " * (MAX_HEADER + 1), b"", None),
    "99 MB of spaces": (b'{"x":' + b" " * (99 << 20) + json.dumps(X).encode() + b"}", b"1234", None),
    "a million tensors": (many(1_000_000), b"", None),
    "overlaps": ({"x": X, "y": X}, b"1234", None),
    "a hole": ({"x": X, "y": {**X, "data_offsets": [8, 12]}}, b"1234" * 3, None),
    "an overflow": ({"x": {**X, "shape": [1 << 62, 8]}}, b"1234", None),
    "a number below 0": ({"x": {**X, "shape": [-1]}}, b"1234", None),
    "ends before it begins": ({"x": {**X, "data_offsets": [4, 0]}}, b"1234", None),
    "ends beyond the file": ({"x": {**X, "data_offsets": [0, 1 << 40], "shape": [1 << 38]}}, b"1234", None),
    "brackets in brackets": (b'{"x":' * 100_000, b"", None),
    "no UTF-8": (b'{"\xff": {}}', b"", None),
    "a name twice": (b'{"x":' + json.dumps(X).encode() + b',"x":' + json.dumps(X).encode() + b"}", b"1234", None),
    "cut short": ({"x": X}, b"12", None),
    "bytes left over": ({"x": X}, b"123456", None),
    "a lie about the kind": ({"x": {**X, "dtype": "F16"}}, b"1234", None),
    "a kind that is none": ({"x": {**X, "dtype": "PICKLE"}}, b"1234", None),
    "a list": (b"[]", b"", None),
    "nothing": (b"", b"", None),
}


@pytest.mark.parametrize("name", REFUSED)
def test_crafted_weights_are_refused_at_once(tmp_path, name):
    raw(tmp_path, *REFUSED[name])
    began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match=r"model\.safetensors: "):
        Tensors(tmp_path)
    assert time.process_time() - began < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


def test_as_many_tensors_as_a_header_may_hold(tmp_path):
    raw(tmp_path, many(MAX_HEADER // 60), b"")
    began = time.process_time()
    assert len(Tensors(tmp_path).shapes) == MAX_HEADER // 60
    assert time.process_time() - began < 2


def test_a_tensor_s_name_is_never_a_path(tmp_path):
    (tmp_path / "hf").mkdir()
    export(tmp_path / "hf")
    file = tmp_path / "hf" / "model.safetensors"
    data = file.read_bytes()
    end = 8 + struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:end])
    header["../../../etc/x"] = header.pop("bert.pooler.dense.bias")
    raw(tmp_path / "hf", header, data[end:])
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(DataError, match=r"not known: \.\./\.\./\.\./etc/x"):
        open_run(tmp_path / "hf")
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


# -- code -------------------------------------------------------------------------------------------------------------

HOOKS = {
    "auto_map": {"AutoModel": "evil.Model", "AutoConfig": "evil.Config", "AutoTokenizer": ["evil.Slow", "evil.Fast"]},
    "trust_remote_code": True,
    "custom_pipelines": {"x": {"impl": "evil.Pipeline", "pt": ["AutoModel"]}},
    "_attn_implementation_internal": "evil/kernels",
    "_attn_implementation": "evil/kernels",
    "attn_implementation": "evil/kernels",
    "_name_or_path": "https://example.com/evil",
    "quantization_config": {"quant_method": "evil.Quantizer"},
    "tokenizer_class": "evil.Tokenizer",
    "finetuning_task": "evil.tasks.films",
    "__class__": "evil.Model",
    "transformers.js_config": {"use_external_data_format": True},
}
WATCH = """
import json, sys
from bertjax.saved import open_run
open_run(sys.argv[1]).objective()
found = []
def hook(event, arguments):
    if event == "import":
        found.append([event, arguments[0]])
    elif event.startswith(("socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "ctypes.")):
        found.append([event, ""])
    elif event in ("exec", "compile") and "evil" in repr(arguments):
        found.append([event, repr(arguments)])
sys.addaudithook(hook)
model = open_run(sys.argv[2])
model.objective()
try:
    model.task()
except Exception as error:
    found.append(["refused", f"{type(error).__name__}: {error}"])
print(json.dumps(found))
"""


def test_a_config_s_code_is_never_run(tmp_path):
    for name in ("good", "bad"):
        export(tmp_path / name, "BertForSequenceClassification")
    configure(tmp_path / "bad", **HOOKS)
    for module in ("evil.py", "evil/__init__.py", "evil/tasks.py"):
        (tmp_path / "bad" / module).parent.mkdir(exist_ok=True)
        (tmp_path / "bad" / module).write_text(f"open({str(tmp_path / 'canary')!r}, 'w').close()\nTASKS = {{}}\n")
    path = os.pathsep.join([str(tmp_path / "bad"), str(Path(cli.__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-c", WATCH, tmp_path / "good", tmp_path / "bad"],
        env={**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"},
        cwd=tmp_path / "bad",
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    *events, (last, message) = json.loads(done.stdout)
    assert last == "refused" and "a file names the module 'evil.tasks'" in message and "BERTJAX_TRUST=evil" in message
    assert {event for event, _ in events} <= {"import"}, events
    assert not [name for _, name in events if "evil" in name or name.split(".")[0] in ("transformers", "torch")]
    assert not (tmp_path / "canary").exists()


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A package of one's own with a model family and a task; a file beside it tells whether it was imported."""
    for name in ("__init__", "family", "films"):
        (tmp_path / "my_lab").mkdir(exist_ok=True)
        (tmp_path / "my_lab" / f"{name}.py").write_text("")
    (tmp_path / "my_lab" / "family.py").write_text("from bertjax.models.bert import *\n")
    text = "from bertjax.tasks.text import SMS_SPAM\nTASKS = {'mine': SMS_SPAM}\n"
    (tmp_path / "my_lab" / "films.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_lab"]:
        del sys.modules[name]


def test_a_module_that_a_file_names_is_imported_where_the_user_trusts_it(lab, monkeypatch):
    stored = {**to_json(Finetune(task="sms_spam")), "task": "my_lab.films.mine"}
    with pytest.raises(ConfigError, match=r"config.json: tasks: a file names the module 'my_lab.films'.*TRUST=my_lab"):
        from_json(Finetune, stored, "config.json")
    assert "my_lab.films" not in sys.modules
    monkeypatch.setenv(registry.TRUST, "other,my_lab")
    assert from_json(Finetune, stored, "config.json").task == "my_lab.films.mine"
    monkeypatch.delenv(registry.TRUST)  # by now it is imported, as it is by a recipe
    assert from_json(Finetune, stored, "config.json").task == "my_lab.films.mine"


def test_a_module_that_the_user_names_is_imported(lab):
    assert Finetune(task="my_lab.films.mine").task == "my_lab.films.mine"
    assert registry.find("models", "my_lab.family").PRESETS


@pytest.mark.parametrize("name", ["os.path", "..evil", "a..b", ".", "antigravity.x", "this.s", "json.decoder"])
def test_a_module_that_is_no_family(name):
    from bertjax.contracts import ModelConfig

    with pytest.raises(ConfigError, match=r"a file names the module|has no such Config|cannot import"):
        from_json(ModelConfig, {"name": name}, "config.json")
    assert "antigravity" not in sys.modules and "this" not in sys.modules
