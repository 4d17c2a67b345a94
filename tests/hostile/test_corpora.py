"""Odd and hostile corpora: what is read is what is there, what is not is counted, and memory is bounded."""

import bz2
import gzip
import os
import subprocess
import sys
import tracemalloc
from collections import Counter

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from bertjax.data import corpus, lines
from bertjax.data.corpus import Caps
from bertjax.errors import DataError


def read(folder, name, content, **options):
    (folder / name).write_bytes(content)
    counts = Counter()
    return list(corpus.documents([str(folder / name)], counts=counts, **options)), counts


@pytest.mark.parametrize(
    ("content", "documents"),
    [
        (b"a\0b\n\nc\n", [["a\0b"], ["c"]]),
        (b"a\r\nb\r\n\r\nc\r\n", [["a", "b"], ["c"]]),
        (b"\xef\xbb\xbfa\n\nb", [["a"], ["b"]]),
        ("a\u2028b\u0085c\x0bd\x0ce\x1cf\n\ng".encode(), [["a\u2028b\u0085c\x0bd\x0ce\x1cf"], ["g"]]),
        (b"a\rb\n", [["a\rb"]]),
        (b"a", [["a"]]),
        (b"\n\n\na\n\n\n\n", [["a"]]),
        (b" \t\n\xe3\x80\x80\n", []),  # blanks, an ideographic one too
        (b"", []),
        (b"\n" * 10_000, []),
        (b"one document\nof two lines\n", [["one document", "of two lines"]]),
    ],
)
@pytest.mark.parametrize("pack", ["", ".gz", ".bz2", ".zst"])
def test_odd_texts(tmp_path, content, documents, pack):
    packed = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".zst": zstandard.compress}[pack](content)
    found, _ = read(tmp_path, f"c.txt{pack}", packed)
    assert found == documents


@settings(max_examples=100, derandomize=True, deadline=None)
@given(st.lists(st.text(st.sampled_from("ab \u2028\u0085\r\t\0é한\ufeff"), max_size=12), max_size=8))
def test_every_letter_is_kept_in_its_order(tmp_path_factory, rows):
    """But for white space at the ends of lines, a byte order mark at the beginning, and a title in brackets."""
    text = "\n".join(rows)
    found, counts = read(tmp_path_factory.mktemp("corpus"), "c.txt", text.encode())
    expected = [line.strip() for line in text.removeprefix("\ufeff").split("\n")]
    assert [line for document in found for line in document] == [line for line in expected if line]
    assert set(counts) <= {lines.BYTES, corpus.EMPTY, corpus.KEPT} and counts[lines.BYTES] == len(text.encode())


@pytest.mark.parametrize("bad", [b"\xff", b"\xed\xa0\x80", b"\xc3", b"\xf5\x80\x80\x80"])
def test_bytes_that_are_no_text_are_counted_or_refused_with_the_cure(tmp_path, bad):
    found, counts = read(tmp_path, "c.txt", b"word\n" * 99 + bad + b" end\n")
    assert counts[lines.INVALID] == 1 and len(found[0]) == 100 and found[0][-1].endswith("\ufffd end")
    with pytest.raises(DataError, match=r"c.txt:10: 10 of 10 lines are not UTF-8; convert the file first"):
        read(tmp_path, "c.txt", (bad + b"\n") * 10)


@pytest.mark.parametrize("name", ["c.txt", "c.jsonl", "c.txt.gz"])
def test_a_line_of_32_mb_takes_bounded_memory(tmp_path, name):
    text = b"word " * 7_000_000
    text = text[: 32 << 20]
    if name == "c.jsonl":
        text = b'{"text": "' + text + b'"}\n{"text": "short"}\n'
    (tmp_path / name).write_bytes(gzip.compress(text, 1) if name.endswith("gz") else text)
    del text
    caps, counts = Caps(line=1 << 20, document=4 << 20), Counter()
    tracemalloc.start()
    found = corpus.documents([str(tmp_path / name)], caps=caps, counts=counts)
    characters = sum(len(line) for document in found for line in document)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 << 20, f"{peak:,}"
    if name == "c.jsonl":
        assert counts["JSON lines over --max-document (dropped)"] == 1 and characters == 5
    else:
        assert counts[lines.LONG] == 1 and characters > 31 << 20


PEAK = """
import sys
from collections import Counter
from bertjax.data import corpus
def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
before, counts = peak(), Counter()
read = sum(len(line) for document in corpus.documents(sys.argv[1:], counts=counts) for line in document)
print(read, peak() - before)
"""


@pytest.mark.slow
def test_a_line_of_1_gb_takes_bounded_memory(tmp_path):
    with (tmp_path / "c.txt").open("wb") as file:
        for _ in range(1024):
            file.write((b"word " * 210_000)[: 1 << 20])
    command = [sys.executable, "-c", PEAK, tmp_path / "c.txt"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    read, kib = map(int, done.stdout.split())
    assert read > 1_000 << 20 and kib < 400 << 10


BOMBS = {".gz": lambda data: gzip.compress(data, 9), ".bz2": bz2.compress, ".zst": zstandard.compress}


@pytest.mark.parametrize(("pack", "unit"), [(".gz", b"a "), (".gz", b"\0"), (".zst", b"a "), (".bz2", b"\0")])
def test_a_bomb_is_given_up(tmp_path, monkeypatch, pack, unit):
    monkeypatch.setattr(lines, "MOST", 1 << 20)
    (tmp_path / f"c.txt{pack}").write_bytes(BOMBS[pack](unit * (2 << 20)))
    with pytest.raises(DataError, match=rf"c.txt{pack}:1: unpacks to over 500 times"):
        for _ in corpus.documents([str(tmp_path / f"c.txt{pack}")], caps=Caps(1 << 16, 1 << 18), counts=Counter()):
            pass


def test_text_is_packed_less(tmp_path):
    """What is repeated a hundred times is read, however it is packed."""
    text = (b"".join(b"sentence %d of a text.\n" % number for number in range(200)) + b"\n") * 100
    for pack, packed in BOMBS.items():
        found, _ = read(tmp_path, f"c.txt{pack}", packed(text))
        assert len(found) == 100
