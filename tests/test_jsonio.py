"""Configs survive strict JSON, and whatever is not one of ours is refused with its place."""

import errno
import json
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path

import pytest

from bertjax import config, use
from bertjax.contracts import ModelConfig, ObjectiveConfig
from bertjax.data.masking import Masking
from bertjax.errors import ConfigError, DataError, StorageError
from bertjax.jsonio import from_json, read_json, to_json, write_json
from bertjax.models import bert
from bertjax.objectives import mlm, supervised
from bertjax.train.mesh import MeshConfig
from bertjax.train.optim import Optimizer

VALUES = [
    (config.Prepare, config.Prepare(corpus=("a.txt", "b*.gz"), out="d", held_out=0.25, lowercase=False)),
    (config.Pretrain, config.Pretrain()),
    (
        config.Pretrain,
        config.Pretrain(
            data=("d", "e"),
            data_weights=(7.0, 3.0),
            model=bert.Config(width=64, layers=1, heads=2, dtype="bfloat16"),
            objective=mlm.Config("sop", Masking(rate=(0.3, 0.15))),
            optimizer=Optimizer(kind="lamb", warmup=100),
            mesh=MeshConfig(data=2, tensor=4),
        ),
    ),
    (config.Finetune, config.Finetune(task="cola", source="run", encoder="random", baseline="tfidf")),
    (use.Evaluate, use.Evaluate(run="r", split="test")),
    (use.Predict, use.Predict(run="r", input="i.tsv", out="o.tsv")),
    (Optimizer, Optimizer(epsilon=1e-12, peak_lr=0.1 + 0.2)),
    (MeshConfig, MeshConfig(fsdp=8)),
    (ModelConfig, bert.PRESETS["tiny"]),
    (ObjectiveConfig, mlm.Config("segments", Masking(kind="span", mask_share=0.7, random_share=0.15))),
    (ObjectiveConfig, supervised.Config(classes=5)),
]


@pytest.mark.parametrize(("kind", "value"), VALUES, ids=lambda v: type(v).__name__ if is_dataclass(v) else "")
def test_round_trip(kind, value):
    text = json.dumps(to_json(value), allow_nan=False)
    assert from_json(kind, json.loads(text), "here") == value


def test_families_and_objectives_travel_with_their_names():
    stored = to_json(config.Pretrain())
    assert stored["model"]["name"] == "bert" and stored["objective"]["name"] == "mlm"
    assert "name" not in stored["optimizer"]
    assert stored["model"].keys() - {"name"} == {f.name for f in fields(bert.Config)}


def test_missing_keys_have_their_defaults_and_integers_may_stand_for_floats():
    read = from_json(config.Pretrain, {"steps": 7, "optimizer": {"warmup": 100}}, "here")
    assert read == replace(config.Pretrain(steps=7), optimizer=Optimizer(warmup=100.0))
    assert type(read.optimizer.warmup) is float


@pytest.mark.parametrize(
    ("kind", "data", "message"),
    [
        (config.Pretrain, {"stepz": 3}, "here.stepz: there is no such key; did you mean 'steps'?"),
        (config.Pretrain, {"optimizer": {"peak_rl": 1.0}}, "here.optimizer.peak_rl: there is no such key; did you"),
        (config.Pretrain, {"steps": "3"}, "here.steps: needs int, is '3'"),
        (config.Pretrain, {"steps": True}, "here.steps: needs int, is True"),
        (config.Pretrain, {"steps": 3.0}, "here.steps: needs int, is 3.0"),
        (config.Pretrain, {"out": None}, "here.out: needs str, is None"),
        (config.Prepare, {"lowercase": 1}, "here.lowercase: needs bool, is 1"),
        (config.Prepare, {"corpus": "a.txt"}, "here.corpus: needs a list, is 'a.txt'"),
        (config.Prepare, {"corpus": ["a", 1]}, "here.corpus[1]: needs str, is 1"),
        (config.Pretrain, {"mesh": [1, 1, 1]}, "here.mesh: needs an object with the fields of MeshConfig"),
        (config.Pretrain, {"model": {"width": 64}}, 'here.model: needs a "name" (one of bert'),
        (config.Pretrain, {"model": "bert"}, 'here.model: needs a "name" (one of bert'),
        (config.Pretrain, {"model": {"name": "brt"}}, "models: there is no 'brt'; did you mean 'bert'?"),
        (config.Pretrain, {"model": {"name": "no.such.module"}}, "a file names the module 'no.such.module'"),
        (config.Pretrain, {"model": {"name": "bert", "dtype": "float31"}}, "here.model.dtype: 'float31'; did you"),
        (config.Pretrain, {"model": {"name": "bert", "width": 130}}, "model.width=130 is not a multiple"),
        (config.Finetune, {"encoder": "pretraind"}, "here.encoder: 'pretraind'; did you mean 'pretrained'?"),
        (config.Finetune, {"task": "colla"}, "there is no task 'colla'; did you mean 'cola'?"),
        (config.Finetune, 3, "here: needs an object with the fields of Finetune, is 3"),
    ],
)
def test_what_is_not_a_config_is_refused_with_its_place(kind, data, message):
    with pytest.raises(ConfigError) as error:
        from_json(kind, data, "here")
    assert message in str(error.value)


def test_keys_without_default_must_be_there():
    @dataclass(frozen=True)
    class Needs:
        width: int
        depth: int = 1

    with pytest.raises(ConfigError, match="here: missing width"):
        from_json(Needs, {"depth": 2}, "here")


def test_files_are_whole_and_made_with_their_folder(tmp_path):
    path = tmp_path / "new" / "config.json"
    write_json(path, {"a": [1, 0.1], "b": "é"})
    assert read_json(path, "us") == {"a": [1, 0.1], "b": "é"}
    assert [p.name for p in path.parent.iterdir()] == ["config.json"]


@pytest.mark.parametrize("content", [b"", b'{"a": ', b"\xff\xfe{}"])
def test_damaged_files_name_the_command_that_makes_them(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"config\.json: not JSON .* it is made by pretrain"):
        read_json(path, "pretrain")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"config\.json: no such file; it is made by pretrain"):
        read_json(tmp_path / "config.json", "pretrain")


def test_a_file_that_cannot_be_written_leaves_what_was_there(tmp_path, monkeypatch):
    write_json(tmp_path / "x.json", {"a": 1})

    def full(self, data):
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StorageError, match=r"x.json: No space left on device"):
        write_json(tmp_path / "x.json", {"a": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
    assert json.loads((tmp_path / "x.json").read_bytes()) == {"a": 1}
