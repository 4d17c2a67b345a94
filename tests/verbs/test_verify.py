"""Damaged checkpoints and shards are named, and the last or the best that is whole is taken."""

import errno
import os
import shutil

import pytest
from disks import refuse_to_read

from bertjax.data.meta import Meta


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


def largest(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


@pytest.fixture
def copied(tmp_path, pretrained):
    return shutil.copytree(pretrained, tmp_path / "copied")


def verdicts(outcome):
    """What the table says of each checkpoint."""
    return {line.split()[1]: line.split("│")[-2].strip() for line in outcome.out.split("\n") if line[:1] == "│"}


def test_a_whole_run(bertjax, pretrained, unchanged):
    check = unchanged(pretrained)
    outcome = bertjax("inspect", pretrained, "--verify")
    assert outcome.code == 0 and set(verdicts(outcome).values()) == {"whole"}
    check()


def test_every_damaged_file_is_named(bertjax, copied):
    steps = copied / "checkpoints"
    flip(largest(steps / "16" / "encoder"))
    shutil.rmtree(steps / "15" / "extra")
    (steps / "15" / "train" / "more").touch()
    flipped = largest(steps / "16" / "encoder").relative_to(copied)
    outcome = bertjax("inspect", "--verify", copied)
    assert outcome.code == 2
    told = verdicts(outcome)
    assert told.pop("16") == "damaged: 1 files" and told.pop("15") == "damaged: 3 files"
    assert set(told.values()) <= {"whole"}
    for line in (f"{flipped}: other bytes", "15/extra/metadata: missing", "15/train/more: not of this checkpoint"):
        assert line in outcome.err


def test_a_folder_that_is_data_and_a_run(bertjax, copied, data):
    shutil.copytree(data, copied, dirs_exist_ok=True)
    outcome = bertjax("inspect", "--verify", copied)
    assert outcome.code == 0 and {"16", "train-00000.array_record"} <= set(verdicts(outcome))
    flip(largest(copied / "checkpoints/16/encoder"))
    outcome = bertjax("inspect", "--verify", copied)
    assert outcome.code == 2 and "checkpoints/16/encoder" in outcome.err


@pytest.mark.parametrize("how", ["flip", "part", "score"])
def test_a_run_goes_on_from_the_last_whole_checkpoint(bertjax, home, data, copied, pretrained, how):
    last = copied / "checkpoints" / "16"
    if how == "flip":
        flip(largest(last / "train"))
    elif how == "part":
        shutil.rmtree(last / "encoder")
    else:
        (last / "metrics/metrics").write_text('{"score": ')
    outcome = bertjax("pretrain", home / "pretrain.py", "--data", data, "--out", copied)
    assert outcome.code == 0, outcome.err
    assert "checkpoints/16 is damaged and is passed over" in outcome.err
    assert "resumes after step 15 of 16" in outcome.err
    assert f"checkpoint 16 is moved to {copied}/damaged/16" in outcome.err
    assert (copied / "damaged" / "16").is_dir()
    assert set(verdicts(bertjax("inspect", copied, "--verify")).values()) == {"whole"}


def test_the_next_best_is_used_elsewhere(bertjax, home, finetuned, tmp_path):
    copied = shutil.copytree(finetuned, tmp_path / "copied")
    steps = sorted((p for p in (copied / "checkpoints").iterdir()), key=lambda p: int(p.name))
    best = bertjax("evaluate", copied, "--data", home, "--out", tmp_path / "best.json")
    assert best.code == 0 and "damaged" not in best.err
    for step in steps[:-1]:
        flip(largest(step / "encoder"))
    outcome = bertjax("evaluate", copied, "--data", home, "--out", tmp_path / "other.json")
    assert outcome.code == 0 and outcome.err.count("is damaged and is passed over") == len(steps) - 1
    flip(largest(steps[-1] / "encoder"))
    outcome = bertjax("evaluate", copied, "--data", home, "--out", tmp_path / "none.json")
    assert outcome.code == 2 and "no checkpoint is whole" in outcome.err
    assert not (tmp_path / "none.json").exists()


def test_a_whole_corpus(bertjax, data):
    outcome = bertjax("inspect", data, "--verify")
    shards = [shard.name for shards in Meta.load(data).splits.values() for shard in shards]
    assert outcome.code == 0 and verdicts(outcome) == dict.fromkeys(shards, "whole")


def test_damaged_shards_are_named(bertjax, data, tmp_path):
    copied = shutil.copytree(data, tmp_path / "copied")
    names = [shard.name for shard in Meta.load(data).splits["train"]]
    flip(copied / names[0])
    (copied / names[1]).unlink()
    outcome = bertjax("inspect", copied, "--verify")
    assert outcome.code == 2
    for line in (f"{names[0]}: other bytes than were written", f"{names[1]}: missing"):
        assert line in outcome.err
    shutil.rmtree(copied / "tokenizer")
    assert "tokenizer: " in bertjax("inspect", copied, "--verify").err


@pytest.mark.parametrize(("number", "code"), [(errno.EIO, 3), (errno.ESTALE, 3), (errno.EACCES, 2)])
@pytest.mark.parametrize("part", ["manifest.json", "16/train/_METADATA"])
def test_checkpoints_that_cannot_be_read_now_stay_where_they_are(
    bertjax, home, data, copied, unchanged, monkeypatch, number, code, part
):
    check = unchanged(copied)
    with monkeypatch.context() as patch:
        refuse_to_read(patch, part, number)
        outcome = bertjax("pretrain", home / "pretrain.py", "--data", data, "--out", copied)
        assert outcome.code == code and f"{part}: {os.strerror(number)}" in outcome.err.splitlines()[-1], outcome.err
        assert "damaged" not in outcome.err and "delete" not in outcome.err
        outcome = bertjax("inspect", copied, "--verify")
        told = verdicts(outcome)
        assert outcome.code == code and f"{part}: {os.strerror(number)}" in outcome.err
        assert told["16"] == "cannot be read: 1 files" and (told["15"] == "whole") == part.startswith("16")
    check()


def test_shards_that_cannot_be_read_now_are_listed(bertjax, data, monkeypatch):
    names = [shard.name for shard in Meta.load(data).splits["train"]]
    refuse_to_read(monkeypatch, names[1], errno.EIO)
    outcome = bertjax("inspect", data, "--verify")
    told = verdicts(outcome)
    assert outcome.code == 3 and f"{names[1]}: Input/output error; check the disk" in outcome.err
    assert told.pop(names[1]) == "cannot be read" and set(told.values()) == {"whole"}
