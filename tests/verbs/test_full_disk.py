"""A disk that is full or read-only ends a command with code 3 and one message; with room again it goes on."""

import subprocess
import sys
from pathlib import Path

import pytest
from disks import fill, make_read_only, small_disk
from helpers import logged

from bertjax.data.meta import Meta


def on_disk(folder):
    """Bytes that the files of a folder take on a disk of pages."""
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in Path(folder).rglob("*") if path.is_file())


def resize(disk, size):
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)


@pytest.mark.late
def test_a_run_goes_on_when_there_is_room_again(bertjax, home, data, pretrained, tmp_path):
    one = max(on_disk(step) for step in (pretrained / "checkpoints").iterdir())
    command = ["pretrain", home / "pretrain.py", "--data", data, "--keep-last", "9", "--out"]
    with small_disk(tmp_path / "disk", 3 * one) as disk:
        program = [sys.executable, "-m", "bertjax", *map(str, command), str(disk / "run")]
        done = subprocess.run(program, capture_output=True, text=True)
        assert done.returncode == 3, done
        last = done.stderr.splitlines()[-1]
        assert last.startswith("bertjax pretrain: ") and "No space left on device; make room there, then give" in last
        assert "MiB are free, a checkpoint takes" in done.stderr and "; the next save tries again" in done.stderr
        for word in ("Traceback", "Error", "orbax", "Warning"):
            assert word not in done.stderr, done.stderr
        there = [path.name for path in (disk / "run/checkpoints").iterdir()]
        assert there and all(name.isdigit() for name in there)
        assert bertjax("inspect", disk / "run", "--verify").code == 0
        resize(disk, 20 * one)
        outcome = bertjax(*command, disk / "run")
        assert outcome.code == 0 and "resumes after step" in outcome.err
        assert logged(disk / "run") == logged(pretrained)


def test_a_run_that_cannot_be_saved_once_does_not_begin(bertjax, home, data, tmp_path):
    with small_disk(tmp_path / "disk", 100_000) as disk:
        outcome = bertjax("pretrain", home / "pretrain.py", "--data", data, "--out", disk / "run")
        assert outcome.code == 3 and "step 1/16" not in outcome.err
        assert "MiB are free, a checkpoint takes" in outcome.err.splitlines()[-1]


def test_a_read_only_disk(bertjax, home, data, tmp_path):
    with small_disk(tmp_path / "disk", 10**6) as disk:
        make_read_only(disk)
        for verb in ("pretrain", "prepare"):
            arguments = (
                [home / "pretrain.py", "--data", data] if verb == "pretrain" else ["--corpus", home / "corpus.txt"]
            )
            outcome = bertjax(verb, *arguments, "--out", disk / "out")
            assert outcome.code == 3 and "Traceback" not in outcome.err
            assert "Read-only file system; mount it for writing" in outcome.err.splitlines()[-1]


def test_a_corpus_that_does_not_fit(bertjax, home, data, tmp_path):
    command = ["prepare", "--corpus", home / "corpus.txt", "--vocab-size", "120", "--held-out", "0.15", "--out"]
    with small_disk(tmp_path / "disk", 50_000) as disk:
        outcome = bertjax(*command, disk / "data", "--shard-tokens", "150")
        assert outcome.code == 3 and "Traceback" not in outcome.err
        assert "No space left on device; make room there" in outcome.err.splitlines()[-1]
        assert not (disk / "data/meta.json").exists()
        resize(disk, 10**8)
        assert bertjax(*command, disk / "data", "--shard-tokens", "150").code == 0
        assert Meta.load(disk / "data").content_hash == Meta.load(data).content_hash


@pytest.mark.parametrize("verb", ["predict", "embed", "evaluate", "report"])
def test_what_a_command_gives_does_not_fit(bertjax, home, finetuned, tmp_path, verb):
    (tmp_path / "texts.tsv").write_text("text\nfree prize now\n")
    inputs = {"evaluate": ["--data", home], "report": []}.get(verb, ["--input", tmp_path / "texts.tsv"])
    with small_disk(tmp_path / "disk", 8192) as disk:
        fill(disk)
        name = {"predict": "out.tsv", "embed": "out.npy"}.get(verb, "out")
        outcome = bertjax(verb, finetuned, *inputs, "--out", disk / name)
    assert outcome.code == 3 and "Traceback" not in outcome.err
    assert "No space left on device; make room there" in outcome.err.splitlines()[-1]
