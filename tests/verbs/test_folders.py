"""A run begins in a new or empty folder, or where one was begun; files of others are left as they are."""

import json
import shutil

import pytest

from bertjax.errors import ConfigError
from bertjax.folders import check_out, foreign
from bertjax.paths import as_path


def hub_directory(folder):
    """What others keep weights in."""
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert"}')
    (folder / "model.safetensors").write_bytes(b"\0" * 9)
    (folder / "vocab.txt").write_text("[PAD]\n")
    return folder


@pytest.mark.parametrize("verb", ["pretrain", "finetune"])
@pytest.mark.parametrize("where", ["a directory of others", "prepared data", "a tokenizer alone"])
def test_no_run_begins_among_files_of_others(bertjax, home, data, pretrained, tmp_path, unchanged, verb, where):
    out = tmp_path / "out"
    if where == "prepared data":
        shutil.copytree(data, out)
    elif where == "a tokenizer alone":
        shutil.copytree(data / "tokenizer", out / "tokenizer")
    else:
        hub_directory(out)
    same = unchanged(out)
    options = {"pretrain": ["--data", data], "finetune": ["--task", "sms_spam", "--from", pretrained, "--data", home]}
    outcome = bertjax(verb, home / f"{verb}.py", *options[verb], "--out", out)
    assert outcome.code == 2 and f"{out} holds no run, but " in outcome.err and "new or empty folder" in outcome.err
    assert {"a directory of others": "config.json, model.safetensors, vocab.txt", "prepared data": "meta.json"}.get(
        where, "tokenizer"
    ) in outcome.err
    same()


def test_what_a_start_leaves_behind_is_no_hindrance(pretrained, tmp_path):
    left = ("config.json", "metrics.jsonl", "run.lock", "config.json.tmp", "stacks-0.txt", "job-17.log", ".shared-0a1b")
    left += ("lost+found", ".nfs0001")  # of file systems
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "checkpoints/0.orbax-checkpoint-tmp").mkdir(parents=True)
    for name in left:
        (tmp_path / name).touch()
    shutil.copy(pretrained / "config.json", tmp_path)
    check_out(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert foreign(tmp_path) == ["config.json", "tokenizer"]
    (tmp_path / "config.json").unlink()
    assert foreign(tmp_path) == ["tokenizer"]


def test_runs_stand_beside_runs(pretrained, tmp_path):
    shutil.copytree(pretrained, tmp_path / "mrpc" / "seed-0")
    check_out(tmp_path)
    check_out(tmp_path / "new")
    check_out(pretrained)


def test_a_run_that_has_checkpoints_is_one_whatever_its_config_says(pretrained, tmp_path):
    run = shutil.copytree(pretrained, tmp_path / "run")
    (run / "config.json").write_text("{")
    assert foreign(run) == []
    (run / "holiday.jpg").touch()
    assert foreign(run) == ["holiday.jpg"]
    check_out(run)


def test_in_a_bucket(cloud):
    out = as_path("gs://bkt/out")
    check_out(out)
    cloud.store("bkt", "out/run.lock", b"{}")
    cloud.store("bkt", "out/cola/seed-0/config.json", b"{}")
    check_out(out)
    cloud.store("bkt", "out/config.json", json.dumps({"model_type": "bert"}).encode())
    with pytest.raises(ConfigError, match="holds no run, but config"):
        check_out(out)
    cloud.store("bkt", "out/config.json", json.dumps({"command": "pretrain"}).encode())
    check_out(out)
