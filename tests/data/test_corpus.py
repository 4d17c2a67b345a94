import bz2
import errno
import gzip
import io
import json
import os
import tracemalloc
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from bertjax.data import corpus, formats, lines
from bertjax.data.corpus import Caps, documents, sentences, sources
from bertjax.errors import ConfigError, DataError, StorageError

PACK = {"": lambda data: data, ".gz": gzip.compress, ".bz2": bz2.compress, ".zst": zstandard.compress}
ARTICLES = """<doc id="1" url="u" title="Fish &amp; "chips" (food)">
Fish & "chips" (food)

Fish &amp; chips. Was &lt;b&gt; here.

History.
</doc>
<doc id="2" url="u" title="Empty">
Empty

</doc>
<doc id="3" url="u" title="Other">
Another line.
</doc>
"""


def read(path, **options):
    counts = Counter()
    return list(documents([str(path)], counts=counts, **options)), counts


def put(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def parquet(path, texts, column="text", **options):
    pq.write_table(pa.table({"id": list(range(len(texts))), column: texts}), path, **options)
    return path


def test_text_documents(tmp_path):
    path = put(tmp_path, "a.txt", "﻿One. Two.\r\nThree\r\n\r\n \t\nFour\u2028still four\x85 and\x00 on\n\n\n")
    found = read(path)[0]
    assert found == [["One. Two.", "Three"], ["Four\u2028still four\x85 and\x00 on"]]
    assert sentences(found[0]) == ["One.", "Two.", "Three"]


def test_wrapped_lines_are_joined_within_a_document(tmp_path):
    path = put(tmp_path, "a.txt", "A sentence that\ngoes on. And\nanother.\n\nNext one.")
    assert read(path, wrapped=True)[0] == [["A sentence that goes on. And another."], ["Next one."]]


@pytest.mark.parametrize("suffix", PACK)
def test_json_lines_and_text_plain_and_compressed(tmp_path, suffix):
    text = "\n".join(json.dumps({"body": text}) for text in ("One. Two.\nThree", "", "Four")) + "\n\n"
    path = put(tmp_path, "a.jsonl" + suffix, PACK[suffix](text.encode()))
    found, counts = read(path, text_column="body")
    assert found == [["One. Two.", "Three"], ["Four"]]
    assert counts == {corpus.EMPTY: 1, lines.BYTES: path.stat().st_size}
    path = put(tmp_path, "a" + suffix, PACK[suffix](b"one\n\ntwo\n") + PACK[suffix](b"more\n"))  # two streams in one
    assert read(path)[0] == [["one"], ["two", "more"]]


def test_large_and_tiny_zstd_frames(tmp_path):
    text = b"".join(b"%d some words\n\n" % i for i in range(50_000))
    whole = put(tmp_path, "a.txt.zst", zstandard.compress(text))
    frames = b"".join(zstandard.compress(text[i : i + 997]) for i in range(0, len(text), 997))
    assert len(read(whole)[0]) == 50_000
    assert read(whole)[0] == read(put(tmp_path, "b.txt.zst", frames + zstandard.compress(b"")))[0]


def test_wikiextractor_is_known_by_its_content(tmp_path):
    for name, text in (("wiki_00", ARTICLES), ("wiki_01.bz2", "\n" + ARTICLES)):
        pack = bz2.compress if name.endswith("bz2") else bytes
        found, counts = read(put(tmp_path, name, pack(text.encode())))
        assert found == [["Fish & chips. Was <b> here.", "History."], ["Another line."]]  # no titles, as BERT
        assert counts[corpus.EMPTY] == 1
    assert read(put(tmp_path, "a.txt", "a text\n" + ARTICLES))[0][0][0] == "a text"  # not its first line: plain text


def test_parquet_row_groups(tmp_path):
    texts = [f"Document {i}. It has\ntwo lines." for i in range(1000)] + [None, ""]
    path = parquet(tmp_path / "a.parquet", texts, row_group_size=300)
    found, counts = read(path)
    assert found == [[f"Document {i}. It has", "two lines."] for i in range(1000)]
    assert counts == {corpus.EMPTY: 2, lines.BYTES: path.stat().st_size}
    assert read(parquet(tmp_path / "b.parquet", ["x"], column="content"), text_column="content")[0] == [["x"]]
    assert read(parquet(tmp_path / "c.parquet", pa.array([], pa.string())))[0] == []


def test_parquet_is_streamed(tmp_path):
    path = parquet(tmp_path / "a.parquet", [f"{i} " * 2000 for i in range(8000)], row_group_size=8000)
    before = pa.total_allocated_bytes()
    most = max(pa.total_allocated_bytes() - before for _ in documents([str(path)], counts=Counter()))
    assert most < 30e6 < 8000 * 2000 * 5  # of 90 MB of text in one row group


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    path = parquet(tmp_path / "a.parquet", ["x"])
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install 'bertjax\[parquet\]'"):
        read(path)


def test_globs_name_each_file_once_in_order(tmp_path):
    for name in ("b.txt", "a.txt", "c.md"):
        put(tmp_path, name, "x")
    found = sources([str(tmp_path / "b.txt"), str(tmp_path / "*.txt")])
    assert [path.name for path in found] == ["b.txt", "a.txt"]


NOISE = b"".join(b"%d line\n" % (i * i) for i in range(9999))


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.jsonl", '{"text": "x"}\n{"text": \n', r"a\.jsonl:2: not JSON"),
        ("a.jsonl", '{"text": "x"}\n\n{"body": "x"}\n', r'a\.jsonl:3: no "text".*--text-column'),
        ("a.jsonl", '{"text": 3}\n', r'a\.jsonl:1: no "text" that is a string'),
        ("a.json", "[" * 100_000, r"a\.json:1: not JSON"),
        ("a.txt", "caf\xe9\n".encode("latin-1") * 20, r"a\.txt:20: 20 of 20 lines are not UTF-8; .*iconv"),
        ("a.txt", "a text\n".encode("utf-16"), r"a\.txt:1: UTF-16, not UTF-8"),
        *((f"a.txt{kind}", b"no such thing", rf"a\.txt{kind}:0: cannot be read") for kind in PACK if kind),
        *((f"a.txt{kind}", PACK[kind](NOISE)[:-20], rf"a\.txt{kind}:\d+: cannot be read") for kind in PACK if kind),
        ("a.txt.zst", zstandard.compress(NOISE)[:-3000] + b"x" * 3000, r"a\.txt\.zst:\d+: cannot be read"),
        ("wiki_00", ARTICLES[:-8], r"wiki_00:\d+: the article that begins at line 12 has no </doc>"),
        ("wiki_00", ARTICLES.replace("</doc>", "", 1), r"wiki_00:8: the article that begins at line 1 has no"),
        ("wiki_00", ARTICLES + "more\n", r"wiki_00:15: text outside of <doc"),
        ("wiki_00", '\n{"text": "x"}\n', r"wiki_00:2: this looks like JSON lines; call the file wiki_00\.jsonl"),
        ("a.parquet", b"PAR1 no parquet PAR1", r"a\.parquet: cannot be read past row 0"),
        ("a.parquet.gz", b"", r"a\.parquet\.gz: Parquet compresses inside"),
    ],
)
def test_what_is_not_text_is_named_with_its_line(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message):
        read(put(tmp_path, name, content))


@pytest.mark.parametrize("kind", PACK)
def test_a_disk_that_cannot_be_read_is_no_bad_text(tmp_path, kind):
    class Broken(io.RawIOBase):
        def readable(self):
            return True

        def readinto(self, buffer):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    path = tmp_path / f"a.txt{kind}"
    with pytest.raises(StorageError, match=rf"a\.txt{kind}: Input/output error; check the disk"):
        list(lines.Lines(path, io.BufferedReader(Broken()), Counter()).whole(100))


def test_damaged_parquet(tmp_path):
    good = parquet(tmp_path / "a.parquet", ["some text " * 9 + str(i) for i in range(20_000)], row_group_size=5000)
    with pytest.raises(DataError, match=r"no column 'body' of strings.*--text-column.*id \(int64\), text \(string\)"):
        read(good, text_column="body")
    with pytest.raises(DataError, match="no column 'id' of strings"):
        read(good, text_column="id")
    content = good.read_bytes()
    with pytest.raises(DataError, match=r"b\.parquet: cannot be read past row 0"):
        read(put(tmp_path, "b.parquet", content[: len(content) // 2]))
    at = content.index(b"some text", len(content) // 2) + 3
    damaged = put(tmp_path, "c.parquet", content[:at] + b"\xff" * 500 + content[at + 500 :])
    with pytest.raises(DataError, match=r"c\.parquet: cannot be read past row \d{4}"):
        read(damaged)
    checked = parquet(tmp_path / "d.parquet", ["x" * 90], compression="none", write_page_checksum=True)
    content = checked.read_bytes().replace(b"x" * 20, b"y" * 20)
    with pytest.raises(DataError, match=r"d\.parquet: cannot be read past row 0"):
        read(put(tmp_path, "d.parquet", content))


def test_no_file_or_a_folder(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path / "*.txt")
    with pytest.raises(DataError, match=r"a folder; name its files"):
        read(tmp_path)


def test_a_few_invalid_lines_are_mended_and_counted(tmp_path):
    path = put(tmp_path, "a.txt", b"fine\n" * 50 + b"caf\xe9\n")
    found, counts = read(path)
    assert found[0][-1] == "caf\ufffd"
    assert counts[lines.INVALID] == 1


@pytest.mark.parametrize("unit", [b"word ", b"x", "한".encode()])
def test_a_long_line_comes_in_pieces_in_bounded_memory(tmp_path, unit):
    path = put(tmp_path, "a.txt", b"before\n" + unit * (10_000_000 // len(unit)) + b"\nafter\n\nlast\n")
    counts, limit = Counter(), 1 << 20
    tracemalloc.start()
    with path.open("rb") as raw:
        size = 0
        for text, _ in lines.Lines(path, raw, counts).pieces(limit):
            assert "\ufffd" not in text
            size += len(text.encode())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size == 10_000_000 // len(unit) * len(unit) + len("beforeafterlast")
    assert peak < 16 * limit
    assert counts == {lines.LONG: 1, lines.BYTES: path.stat().st_size}
    found, _ = read(path)
    assert (len(found), found[1]) == (2, ["last"])
    assert (found[0][0], found[0][-1]) == ("before", "after")


def test_a_zstd_bomb_is_read_in_bounded_memory(tmp_path):
    packed = zstandard.ZstdCompressor().compress(b"\n" * 300_000_000)
    path = put(tmp_path, "a.txt.zst", packed)
    assert len(packed) < 100_000
    tracemalloc.start()
    with path.open("rb") as raw:
        stream = lines.PACKED[".zst"](raw)
        assert sum(len(piece) for piece in iter(lambda: stream.read(1 << 20), b"")) == 300_000_000
    assert tracemalloc.get_traced_memory()[1] < 80e6
    tracemalloc.stop()


def test_caps_cut_long_lines_and_documents_and_count_them(tmp_path):
    caps = Caps(line=20, document=50)
    long = "word " * 8  # 40 characters: two pieces of 19
    text = put(tmp_path, "a.txt", f"{long}\nshort\n\n" + "a few words\n" * 6 + "\nlast\n")
    found, counts = read(text, caps=caps)
    piece = "word word word word"
    assert found == [[piece, piece, "short"], ["a few words"] * 4, ["a few words"] * 2, ["last"]]
    assert counts == {lines.LONG: 1, formats.CUT: 1, lines.BYTES: text.stat().st_size}
    found, counts = read(parquet(tmp_path / "a.parquet", [f"{long}\nshort", "a few words\n" * 6, "x" * 45]), caps=caps)
    assert found[:3] == [[piece, piece, "short"], ["a few words"] * 4, ["a few words"] * 2]
    assert found[3:] == [["x" * 20, "x" * 20, "x" * 5]]
    assert counts[lines.LONG] == 2 and counts[formats.CUT] == 1


def test_too_long_json_lines_are_dropped_and_counted(tmp_path):
    rows = ["x" * 2000, "kept", "y" * 5000, "z" * 90, "한" * 900]
    path = put(tmp_path, "b.jsonl", "\n".join(json.dumps({"text": row}) for row in rows))
    found, counts = read(path, caps=Caps(line=1000, document=1000))
    assert found == [["kept"], ["z" * 90]]
    assert counts == {formats.DROPPED: 3, lines.BYTES: path.stat().st_size}
    exact = put(tmp_path, "c.jsonl", json.dumps({"text": "x" * 988}) + "\n")
    assert exact.stat().st_size == 1001
    assert read(exact, caps=Caps(line=1000, document=1000))[0] == [["x" * 988]]
    assert read(exact, caps=Caps(line=999, document=999))[1][formats.DROPPED] == 1


@pytest.mark.parametrize("pattern", ["gs://bucket/*.txt", "s3://bucket/a.jsonl.gz"])
def test_a_bucket_is_not_a_file(pattern):
    with pytest.raises(DataError, match="files of this machine; copy or mount it first"):
        sources([pattern])
