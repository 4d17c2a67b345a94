"""Files that are written whole or not at all, in UTF-8 whatever the locale."""

import errno
import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from disks import fill, fill_up, make_read_only, make_writable, small_disk

from bertjax import api, paths, scoring, suite
from bertjax.data.meta import Meta
from bertjax.errors import StorageError
from bertjax.paths import Growing, write_bytes, write_text
from bertjax.use import Embed


def test_text_is_utf_8_in_any_locale(tmp_path):
    program = """
import sys
from pathlib import Path
from bertjax.data.specials import Specials
from bertjax.data.vocabulary_files import write_config
from bertjax.jsonio import write_json
from bertjax.paths import Growing

out = Path(sys.argv[1])
write_json(out / "config.json", {"labels": ["긍정"]})
Growing(out / "metrics.jsonl", ["긍정"]).add("부정")
write_config(out / "tokenizer", "Ours", Specials("<앞>", *Specials._fields[1:]))
"""
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    (tmp_path / "program.py").write_text(program, "utf-8")
    out = tmp_path / "out"
    subprocess.run([sys.executable, tmp_path / "program.py", out], env={**os.environ, **locale}, check=True)
    assert "긍정" in (out / "config.json").read_text("utf-8")
    assert (out / "metrics.jsonl").read_text("utf-8") == "긍정\n부정\n"
    assert "<앞>" in (out / "tokenizer/tokenizer_config.json").read_text("utf-8")
    assert len(list(out.iterdir())) == 3


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError(), OSError(errno.ENOSPC, "full")], ids=repr)
def test_what_was_there_stays_until_all_is_written(tmp_path, error):
    (tmp_path / "a.tsv").write_text("before")
    raised = StorageError if isinstance(error, OSError) else type(error)
    with pytest.raises(raised), paths.whole(tmp_path / "a.tsv") as new:
        new.write_text("half")
        assert (tmp_path / "a.tsv").read_text() == "before"
        raise error
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a.tsv", "before")]


def embed(folder, monkeypatch):
    model = SimpleNamespace(embed=lambda texts, **_: np.zeros((len(texts), 2), np.float32))
    monkeypatch.setattr(api, "load", lambda run: model)
    (folder / "in.txt").write_text("a\n")
    api.embed(Embed(run="run", input=str(folder / "in.txt"), out=str(folder / "out/v.npy")))


def pack(folder, monkeypatch):
    (folder / "out/submission").mkdir(parents=True, exist_ok=True)
    (folder / "out/submission/CoLA.tsv").touch()
    suite._pack(folder / "out")


COMMANDS = {
    "v.npy": embed,
    "submission.zip": pack,
    "p.tsv": lambda folder, _: scoring.write_tsv(folder / "out/p.tsv", [["a", "b"]]),
    "p.jsonl": lambda folder, _: scoring.write_predictions(folder / "out/p.jsonl", None, [{"a": 1}]),
    "meta.json": lambda folder, _: Meta(1, "", 1, 0, {}, {}).save(folder / "out"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_is_interrupted_keeps_what_it_gave_before(tmp_path, monkeypatch, name):
    COMMANDS[name](tmp_path, monkeypatch)
    files = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert files[tmp_path / "out" / name]
    (tmp_path / "out" / name).write_bytes(b"before")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(paths.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        COMMANDS[name](tmp_path, monkeypatch)
    assert (tmp_path / "out" / name).read_bytes() == b"before"
    assert {path for path in (tmp_path / "out").rglob("*") if path.is_file()} == set(files)


def test_folders_are_made(tmp_path):
    write_bytes(tmp_path / "a/b/c", b"\xff")
    assert (tmp_path / "a/b/c").read_bytes() == b"\xff"


def test_two_that_write_one_file_are_not_mixed_up(tmp_path):
    with paths.whole(tmp_path / "a") as first:
        first.write_text("first")
        write_text(tmp_path / "a", "second")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a", "first")]


def test_a_link_stays_one(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "a").symlink_to(tmp_path / "there/a")
    write_text(tmp_path / "a", "text")
    assert (tmp_path / "a").is_symlink() and (tmp_path / "there/a").read_text() == "text"


def test_a_pipe_is_written_to(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    found = []
    thread = threading.Thread(target=lambda: found.append((tmp_path / "pipe").read_text()))
    thread.start()
    write_text(tmp_path / "pipe", "text")
    thread.join(10)
    assert found == ["text"] and (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("room", [0, 1, 4096, 8192 + 5000])
def test_lines_that_a_full_disk_refuses_come_with_the_next_in_order(tmp_path, room):
    lines = [f"{number} {'x' * 1999}" for number in range(20)]
    with small_disk(tmp_path / "disk", 200_000) as disk:
        file = Growing(disk / "log", lines[:1])
        filler = fill(disk, leave=room)
        for line in lines[1:18]:
            file.add(line)
        assert "disk/log: No space left on device; make room there" in file.refused
        for _ in range(2):
            with pytest.raises(StorageError, match="disk/log: No space left"):
                file.flush()
        filler.unlink()
        file.add(lines[18])
        assert (disk / "log").read_text().splitlines() == lines[:19] and not file.refused
        file.flush()
        file.add(lines[19])
        assert (disk / "log").read_text() == "".join(f"{line}\n" for line in lines)


def test_lines_that_a_read_only_disk_refuses_are_there_with_a_flush(tmp_path):
    with small_disk(tmp_path / "disk", 200_000) as disk:
        file = Growing(disk / "log", [])
        file.add("one")
        make_read_only(disk)
        file.add("two")
        assert "Read-only file system" in file.refused and (disk / "log").read_text() == "one\n"
        make_writable(disk)
        file.flush()
        assert (disk / "log").read_text() == "one\ntwo\n"


@pytest.mark.parametrize("kept", range(12))
def test_a_line_that_was_written_in_part_is_written_once(tmp_path, monkeypatch, kept):
    file, full = Growing(tmp_path / "log", ["one"]), fill_up(monkeypatch, "log", kept=kept)
    file.add("two")
    full.append(True)
    file.add("three")
    file.add("more")
    with pytest.raises(StorageError, match="log: No space left on device"):
        file.flush()
    full.clear()
    file.add("four")
    assert (tmp_path / "log").read_text() == "one\ntwo\nthree\nmore\nfour\n"
