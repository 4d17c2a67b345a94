"""Names that stand in files never lead out of their folder, and what stands in files is only ever shown as text."""

import ast
import hashlib
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from targets import TARGETS
from test_weights import X, raw

import bertjax
from bertjax import suite
from bertjax.data import datareport
from bertjax.data.journal import Journal
from bertjax.data.meta import Meta
from bertjax.errors import ConfigError, DataError, UserError
from bertjax.hf.tensors import INDEX, Tensors
from bertjax.use import check_path

OUTSIDE = ["../outside", "/etc/passwd", "a/../../outside", "..", ".", "", "a\0b", "a\nb", "\x1b[2Jx", ".hidden", "a/b"]


@pytest.fixture
def prepared(tmp_path):
    """A prepared corpus whose journal is still there."""
    folder = tmp_path / "data"
    for name, content in TARGETS["prepare.jsonl"].beside().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / "meta.json").write_bytes(TARGETS["meta.json"].seeds()[0])
    return folder


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_shard_of_prepared_data(prepared, name):
    meta = json.loads((prepared / "meta.json").read_text())
    meta["splits"]["train"][0]["name"] = name
    (prepared / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(DataError, match=r"meta.json: damaged .*is not the name of a file beside it"):
        Meta.load(prepared)


def test_a_shard_that_a_preparation_would_go_on_with(prepared, tmp_path):
    (prepared / "meta.json").unlink()
    outside = tmp_path / "outside"
    outside.write_bytes(b"not a shard")
    head, *entries = TARGETS["prepare.jsonl"].seeds()[0].decode().splitlines()
    entry = json.loads(entries[0])
    entry["shard"] |= {"name": "../outside", "sha256": hashlib.sha256(b"not a shard").hexdigest()}
    (prepared / "prepare.jsonl").write_text("\n".join([head, json.dumps(entry)]) + "\n")
    assert Journal(prepared, "inputs").entries == []
    (prepared / "prepare.jsonl").write_text("\n".join([head, *entries]) + "\n")
    assert len(Journal(prepared, "inputs").entries) == len(entries) > 0


@pytest.mark.parametrize("name", [*OUTSIDE, "x" * 300, 3, None, ["a"]])
def test_a_file_of_an_index(tmp_path, name):
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(DataError, match=r"is not the name of a file beside it"):
        Tensors(tmp_path)


def test_a_link_out_of_a_folder_is_the_users_own(tmp_path):
    """As the model hub's cache has them: what is linked is read, as is what lies there."""
    (tmp_path / "blobs").mkdir()
    raw(tmp_path / "blobs", {"x": X})
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "model.safetensors").symlink_to(tmp_path / "blobs" / "model.safetensors")
    assert Tensors(tmp_path / "snapshot").shapes == {"x": (1,)}


@pytest.mark.parametrize("name", ["../elsewhere/seed-0", "/elsewhere", "cola/../../elsewhere", 3])
def test_the_runs_of_a_suite(tmp_path, name):
    (tmp_path / "scores.json").write_text(json.dumps({"tasks": {"cola": {"runs": [name]}}}))
    with pytest.raises(DataError, match=r"scores.json: damaged"):
        suite._chosen(tmp_path / "scores.json")


@pytest.mark.parametrize("name", ["../x.tsv", "/etc/passwd", "a/b.tsv"])
def test_the_files_of_the_task_of_a_directory(tmp_path, name):
    from hf_directories import configure, export

    from bertjax.saved import open_run

    export(tmp_path, "BertForSequenceClassification")
    files = {"settings": [], "columns": {"texts": ["a"], "files": [name, "dev.tsv"]}}
    configure(tmp_path, finetuning_task="text", task_specific_params={"text": files})
    with pytest.raises(DataError, match="only names without folders are taken"):
        open_run(tmp_path)


@pytest.mark.parametrize(
    "path", ["http://127.0.0.1/x", "https://example.com/run", "ftp://a/b", "file:///etc", "s3://b"]
)
def test_no_path_is_fetched(path):
    with pytest.raises(ConfigError, match="paths are those of this machine"):
        check_path("--from", path)


# -- what is shown ----------------------------------------------------------------------------------------------------

XSS = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'><svg/onload=alert(1)>",
    "</code></p><iframe src=javascript:alert(1)>",
    "</title><style>*{display:none}</style>",
    "&lt;b&gt;&#60;b&#62;",
    "<!-- ",
    "]]>",
    "\0\u2028<b>",
]


class Page(HTMLParser):
    """Names and attributes of all elements, and all text."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, tuple(sorted(name for name, _ in attributes))))

    def handle_data(self, data):
        self.text += data

    def handle_comment(self, data):
        raise AssertionError(f"a comment: {data}")


def test_a_report_of_data_shows_all_as_text():
    lengths = [{"from": 1, "to": 2, "count": 3}]
    splits = {"train": {"documents": 1, "sentences": 2, "tokens": 3, "shards": 4}}

    def page(texts):
        about = {"vocabulary": 9, "words": 9, "fertility": 1.0, "unknown": 0, "unknown_rate": 0.0}
        about |= {"sentences_a_document": 2.0}
        told = {f"{number} {text}": 5 for number, text in enumerate(texts)}
        named = {f"{number} {text}": next(iter(splits.values())) for number, text in enumerate(texts)}
        report = {**about, "splits": named, "counts": told, "samples": [texts]}
        return Page(datareport.page({**report, "sentence_lengths": lengths, "document_lengths": lengths}))

    evil, plain = page(XSS), page(["x"] * len(XSS))
    assert evil.elements == plain.elements
    for text in XSS:
        assert evil.text.count(text) == 3, text


def test_a_message_is_short_and_steers_no_terminal():
    text = str(UserError("a\x1b[2J\x07\0\u202e\ud800\x9b" + "x" * 1_000_000 + "\tend\n한국"))
    assert len(text) < 5_000 and text.endswith("x\tend\n한국")
    assert text.startswith(r"a\x1b[2J\x07\x00\u202e\ud800\x9bxxx") and " ... " in text


# -- our own code -----------------------------------------------------------------------------------------------------

FORBIDDEN_MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "cloudpickle",
    "dill",
    "joblib",
    "shelve",
    "marshal",
    "yaml",
    "tarfile",
}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "os.execv", "yaml.load"}
ALLOWED = {("recipe.py", "spec.loader.exec_module")}  # a recipe is a program that the user names


@pytest.mark.parametrize("path", sorted(Path(bertjax.__file__).parent.rglob("*.py")), ids=lambda path: path.name)
def test_nothing_that_runs_code_from_files_is_used(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
            assert not {name.split(".")[0] for name in names} & FORBIDDEN_MODULES, f"{path}:{node.lineno}"
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            assert name not in FORBIDDEN_CALLS, f"{path}:{node.lineno}: {name}"
            assert not name.endswith((".exec_module", ".load_module")) or (path.name, name) in ALLOWED, (
                f"{path}: {name}"
            )
            wrong = {"allow_pickle", "shell", "weights_only", "trust_remote_code"} & {key.arg for key in node.keywords}
            assert not wrong, f"{path}:{node.lineno}: {wrong}"


def test_a_folder_is_emptied_of_what_is_ours_alone(prepared, tmp_path):
    """What a preparation removes are names in its folder, never what links there lead to."""
    (prepared / "meta.json").rename(prepared / "prepare.jsonl")
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("x")
    (prepared / "train-99999.array_record").symlink_to(kept / "file")
    from bertjax.data.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(prepared / "tokenizer")
    with Journal(prepared, "other").open(tokenizer):
        pass
    assert (kept / "file").read_text() == "x" and not (prepared / "train-99999.array_record").exists()
    shutil.rmtree(prepared)
