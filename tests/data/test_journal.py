import os
import shutil
from collections import Counter
from itertools import islice

import pytest

from bertjax.data import encode, shards
from bertjax.data.held_out import split
from bertjax.data.journal import Journal
from bertjax.data.meta import Meta
from bertjax.data.tally import EMPTY_DOCUMENTS, EMPTY_SENTENCES
from bertjax.errors import ConfigError

TEXT = 60  # documents of the fixture; after each tenth comes one without tokens


@pytest.fixture(autouse=True)
def small_lots(monkeypatch):
    monkeypatch.setattr(encode, "ENCODED_AT_ONCE", 300)


@pytest.fixture(scope="module")
def text(documents):
    return [
        line for i, document in enumerate(documents) for line in ([document, ["\u200b"]] if i % 10 == 4 else [document])
    ]


class Killed(BaseException):
    """Not an error that anything could catch."""


def until(documents, stop):
    yield from islice(documents, stop)
    raise Killed


def prepare(documents, tokenizer, out, inputs="these", **options):
    journal = Journal(out, inputs)
    defaults = {"held_out": 0.15, "seed": 1, "shard_tokens": 600, "counts": Counter(), "journal": journal}
    return journal, shards.write(documents, tokenizer, out, **{**defaults, **options})


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def undisturbed(text, tokenizer, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    _, meta = prepare(text, tokenizer, out)
    assert len(meta.splits["train"]) > 8 and len(meta.splits["valid"]) > 1
    assert meta.counts == {EMPTY_SENTENCES: 6, EMPTY_DOCUMENTS: 6}
    return contents(out)


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_again_and_again_it_comes_to_the_same(text, tokenizer, tmp_path, undisturbed, workers):
    whole = []
    for stop in range(10, len(text) + 1, 14):
        with pytest.raises(Killed):
            prepare(until(text, stop), tokenizer, tmp_path, workers=workers)
        assert not (tmp_path / "meta.json").exists()
        whole.append(len(Journal(tmp_path, "these").entries))
    assert whole == sorted(whole) and whole[-1] > 6
    journal, _ = prepare(text, tokenizer, tmp_path, workers=workers)
    assert len(journal.entries) == whole[-1]
    assert contents(tmp_path) == undisturbed


def test_whole_shards_are_not_tokenised_again(text, tokenizer, tmp_path):
    with pytest.raises(Killed):
        prepare(until(text, 50), tokenizer, tmp_path)
    entries = Journal(tmp_path, "these").entries
    times = {entry.shard.name: (tmp_path / entry.shard.name).stat().st_mtime_ns for entry in entries}
    seen = []
    prepare(text, tokenizer, tmp_path, sentences=lambda lines: seen.append(lines) or lines)
    assert len(seen) == len(text) - sum(entry.taken for entry in entries) < len(text) / 2
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in times} == times


@pytest.mark.parametrize("step", ["_finish", "datareport.write", "Meta.save"])
def test_killed_at_the_end(text, tokenizer, tmp_path, undisturbed, monkeypatch, step):
    def killed(*arguments):
        raise Killed

    target, _, name = step.rpartition(".")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(getattr(shards, target) if target else shards, name, killed)
        prepare(text, tokenizer, tmp_path)
    prepare(text, tokenizer, tmp_path)
    assert contents(tmp_path) == undisturbed


def test_killed_at_the_end_when_train_took_what_valid_had(tokenizer, tmp_path, monkeypatch):
    sides = list(split(range(60), 0.4, 1))
    valid = [number for side, number in sides if side == "valid"]
    valid = valid[: len(valid) - len(valid) % 3 - 2]  # shards of three, the last held back, and one more
    tokens = {*valid, next(number for side, number in sides if side == "train")}
    text = [["the cat sat."] if number in tokens else ["\u200b"] for number in range(60)]
    options = {"held_out": 0.4, "shard_tokens": 12}
    _, meta = prepare(text, tokenizer, tmp_path / "a", **options)
    assert [file.documents for file in meta.splits["train"]] == [5]
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(shards.datareport, "write", lambda *arguments: next(until((), 0)))
        prepare(text, tokenizer, tmp_path / "b", **options)
    journal, _ = prepare(text, tokenizer, tmp_path / "b", **options)
    assert len(journal.entries) == len(meta.splits["valid"])
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_progress_goes_on_where_it_was(text, tokenizer, tmp_path):
    with pytest.raises(Killed):
        prepare(until(text, 50), tokenizer, tmp_path)
    kept = sum(entry.shard.documents for entry in Journal(tmp_path, "these").entries)
    heard = []
    _, meta = prepare(text, tokenizer, tmp_path, progress=lambda *now: heard.append(now))
    assert heard[0][0] == kept + 1 and heard[-1][0] == TEXT
    assert heard[-1][1] == meta.total("train", "tokens") + meta.total("valid", "tokens")


def damaged(how, out):
    entries = Journal(out, "these").entries
    shard, journal = out / entries[1].shard.name, out / "prepare.jsonl"
    lines = journal.read_bytes().split(b"\n")
    if how == "a shard with other bytes":
        shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    elif how == "a shard is gone":
        shard.unlink()
    elif how == "half a line":
        journal.write_bytes(b"\n".join(lines[:3]) + lines[3][: len(lines[3]) // 2])
    elif how == "a line of something else":
        journal.write_bytes(b"\n".join([*lines[:3], b'{"split": 1}']))
    elif how == "half a head":
        journal.write_bytes(lines[0][:20])
    elif how == "no tokenizer":
        shutil.rmtree(out / "tokenizer")
    (out / "train-00099.array_record").write_bytes(b"left")
    (out / "train-00003.array_record.new").write_bytes(b"left")
    (out / "mine.txt").write_text("not to be touched")


@pytest.mark.parametrize(
    "how",
    [
        "a shard with other bytes",
        "a shard is gone",
        "half a line",
        "a line of something else",
        "half a head",
        "no tokenizer",
    ],
)
def test_what_was_damaged_is_made_again(text, tokenizer, tmp_path, undisturbed, how):
    with pytest.raises(Killed):
        prepare(until(text, 50), tokenizer, tmp_path)
    damaged(how, tmp_path)
    assert (Journal(tmp_path, "these").tokenizer() is None) == (how in ("no tokenizer", "half a head"))
    prepare(text, tokenizer, tmp_path)
    assert contents(tmp_path) == {**undisturbed, "mine.txt": b"not to be touched"}


def test_another_preparation_begins_anew(text, tokenizer, tmp_path, undisturbed):
    assert not Journal(tmp_path, "these").foreign
    for inputs in ("others", ""):
        with pytest.raises(Killed):
            prepare(until(text, 50), tokenizer, tmp_path, inputs, shard_tokens=400)
        journal = Journal(tmp_path, "these")
        assert journal.foreign and not journal.entries and journal.tokenizer() is None
        assert not Journal(tmp_path, "").entries
    prepare(text, tokenizer, tmp_path)
    assert contents(tmp_path) == undisturbed


def test_a_finished_corpus_is_left_alone(text, tokenizer, tmp_path):
    prepare(text, tokenizer, tmp_path)
    assert Meta.load(tmp_path) and not os.path.exists(tmp_path / "prepare.jsonl")
    with pytest.raises(ConfigError, match="holds a prepared corpus already"):
        Journal(tmp_path, "these")


@pytest.mark.parametrize(
    "name", ["config.json", "checkpoints/16/x", "tokenizer/vocab.txt", "train-texts.tsv", "report.txt"]
)
def test_nothing_of_others_is_written_over_or_removed(text, tokenizer, tmp_path, name):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("of others")
    with pytest.raises(ConfigError, match=f"holds {name.split('/')[0]}, not of a preparation"):
        prepare(text, tokenizer, tmp_path)
    assert contents(tmp_path) == {(tmp_path / name).name: b"of others"}


@pytest.mark.parametrize("step", ["rmtree", "replace"])
def test_killed_while_it_begins(text, tokenizer, tmp_path, undisturbed, monkeypatch, step):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        make = getattr(shutil if step == "rmtree" else os, step)

        def killed(path, *arguments, **options):
            make(path, *arguments, **options)
            if "tokenizer" in str(path):
                raise Killed

        patch.setattr(shutil if step == "rmtree" else os, step, killed)
        prepare(text, tokenizer, tmp_path)
    assert (tmp_path / "tokenizer").exists() == (step == "replace")
    prepare(text, tokenizer, tmp_path)
    assert contents(tmp_path) == undisturbed


def test_two_at_once_do_not_mix(text, tokenizer, tmp_path):
    def meanwhile():
        yield from text[:30]
        with pytest.raises(ConfigError, match="another process prepares a corpus there"):
            prepare(text, tokenizer, tmp_path, "others")
        yield from text[30:]

    late = Journal(tmp_path, "these")
    _, meta = prepare(meanwhile(), tokenizer, tmp_path)
    with pytest.raises(ConfigError, match="holds a prepared corpus already"), late.open(tokenizer):
        pass
    assert Meta.load(tmp_path) == meta
