import gzip
import json
import time
import tracemalloc
from collections import Counter

import pytest

from bertjax.data import corpus
from bertjax.data.corpus import documents, files, split_sentences
from bertjax.errors import DataError


def read(path, *, wrapped=False):
    counts = Counter()
    return list(documents([str(path)], wrapped=wrapped, counts=counts)), counts


def put(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    "text, sentences",
    [
        ("He sat. She ran.", ["He sat.", "She ran."]),
        (
            "Mr. Smith met Dr. J. R. Jones on St. James St. today. He left.",
            ["Mr. Smith met Dr. J. R. Jones on St. James St. today.", "He left."],
        ),
        (
            "The U.S. Army, e.g. The I.B.M. Co. It cost 3.14 dollars.",
            ["The U.S. Army, e.g. The I.B.M. Co. It cost 3.14 dollars."],
        ),
        (
            '"Really?" she said. "Yes." He nodded... and left.',
            ['"Really?" she said.', '"Yes."', "He nodded... and left."],
        ),
        ("So do I. You too! (Or not?) Fine", ["So do I.", "You too!", "(Or not?)", "Fine"]),
        ("나는 학교에 간다. 너는 어디 가요? 집에 가요!", ["나는 학교에 간다.", "너는 어디 가요?", "집에 가요!"]),
        ("그는 1990. 3. 5. 태어났다. 끝이다.", ["그는 1990. 3. 5.", "태어났다.", "끝이다."]),
        ("今日は。「元気？」はい！", ["今日は。", "「元気？」", "はい！"]),
        ("", []),
        ("...", ["..."]),
    ],
)
def test_sentences(text, sentences):
    assert split_sentences(text) == sentences


@pytest.mark.parametrize("noise", [".", ". ", '."', '"', "a", "?! ", "。"])
def test_sentences_take_linear_time(noise):
    def seconds(size):
        start = time.process_time()
        split_sentences(noise * size)
        return time.process_time() - start

    seconds(1000)
    assert seconds(200_000) < 40 * max(seconds(20_000), 0.002)


def test_text_documents(tmp_path):
    path = put(tmp_path, "a.txt", "﻿One. Two.\r\nThree\r\n\r\n \t\nFour\u2028still four\x85 and\x00 on\n\n\n")
    assert read(path)[0] == [["One.", "Two.", "Three"], ["Four\u2028still four\x85 and\x00 on"]]


def test_wrapped_lines_are_joined_within_a_document(tmp_path):
    path = put(tmp_path, "a.txt", "A sentence that\ngoes on. And\nanother.\n\nNext one.")
    assert read(path, wrapped=True)[0] == [["A sentence that goes on.", "And another."], ["Next one."]]


def test_json_lines_plain_and_gzipped(tmp_path):
    lines = "\n".join(json.dumps({"text": text}) for text in ("One. Two.\nThree", "", "Four"))
    plain = put(tmp_path, "a.jsonl", lines + "\n\n")
    packed = put(tmp_path, "b.jsonl.gz", gzip.compress(lines.encode()))
    for path in (plain, packed):
        found, counts = read(path)
        assert found == [["One.", "Two.", "Three"], ["Four"]]
        assert counts[corpus.EMPTY] == 1
        assert counts[corpus.BYTES] == path.stat().st_size


def test_globs_name_each_file_once_in_order(tmp_path):
    for name in ("b.txt", "a.txt", "c.md"):
        put(tmp_path, name, "x")
    found = files([str(tmp_path / "b.txt"), str(tmp_path / "*.txt")])
    assert [path.name for path in found] == ["b.txt", "a.txt"]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.jsonl", '{"text": "x"}\n{"text": \n', r"a\.jsonl:2: not JSON"),
        ("a.jsonl", '{"text": "x"}\n\n{"body": "x"}\n', r'a\.jsonl:3: no "text"'),
        ("a.jsonl", '{"text": 3}\n', r'a\.jsonl:1: no "text" that is a string'),
        ("a.json", "[" * 100_000, r"a\.json:1: not JSON"),
        ("a.txt", "caf\xe9\n".encode("latin-1") * 20, r"a\.txt:20: 20 of 20 lines are not UTF-8; .*iconv"),
        ("a.txt", "a text\n".encode("utf-16"), r"a\.txt:1: UTF-16, not UTF-8"),
        ("a.txt.gz", b"no gzip at all", r"a\.txt\.gz:0: cannot be read"),
        ("a.txt.gz", gzip.compress(b"line\n" * 9999)[:-20], r"a\.txt\.gz:\d+: cannot be read"),
    ],
)
def test_what_is_not_text_is_named_with_its_line(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message):
        read(put(tmp_path, name, content))


def test_no_file_or_a_folder(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path / "*.txt")
    with pytest.raises(DataError, match=r"a folder; name its files"):
        read(tmp_path)


def test_a_few_invalid_lines_are_mended_and_counted(tmp_path):
    path = put(tmp_path, "a.txt", b"fine\n" * 50 + b"caf\xe9\n")
    found, counts = read(path)
    assert found[0][-1] == "caf\ufffd"
    assert counts[corpus.INVALID] == 1


@pytest.mark.parametrize("unit", [b"word ", b"x", "한".encode()])
def test_a_long_line_comes_in_pieces_in_bounded_memory(tmp_path, unit):
    path = put(tmp_path, "a.txt", b"before\n" + unit * (10_000_000 // len(unit)) + b"\nafter\n\nlast\n")
    counts = Counter()
    tracemalloc.start()
    with path.open("rb") as raw:
        reader = corpus._Reader(path, raw, counts)
        size = 0
        for text, _ in reader.pieces(corpus.MAX_LINE):
            assert "\ufffd" not in text
            size += len(text.encode())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size == 10_000_000 // len(unit) * len(unit) + len("beforeafterlast")
    assert peak < 16 * corpus.MAX_LINE
    assert counts == {corpus.LONG: 1, corpus.BYTES: path.stat().st_size}
    found, _ = read(path)
    assert (len(found), found[1]) == (2, ["last"])
    assert (found[0][0], found[0][-1]) == ("before", "after")


def test_a_document_that_does_not_end(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "MAX_DOCUMENT", 1000)
    with pytest.raises(DataError, match=r"a\.txt:\d+: a document of over .*put blank lines between documents"):
        read(put(tmp_path, "a.txt", "some line\n" * 200))
    with pytest.raises(DataError, match=r"b\.jsonl:2: a line of over"):
        read(put(tmp_path, "b.jsonl", '{"text": "x"}\n' + json.dumps({"text": "y" * 2000})))
