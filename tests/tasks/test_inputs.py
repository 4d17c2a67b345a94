"""Files for `predict`."""

import gzip

import pytest

from bertjax import tasks
from bertjax.contracts import Row
from bertjax.errors import DataError

ONE = [Row("Hello.", None, None), Row('a "quote', None, None)]
TWO = [Row("A.", "B.", None), Row("C.", "D.", None)]


@pytest.mark.parametrize(
    ("task", "file", "content", "rows"),
    [
        ("sms_spam", "in.tsv", 'text\nHello.\na "quote\n', ONE),
        ("sms_spam", "in.txt", 'Hello.\na "quote\n', ONE),
        ("cola", "in.tsv", 'id\tsentence\tnote\r\n7\tHello.\t\r\n8\ta "quote\tx\r\n', ONE),
        ("cola", "in.jsonl", '{"text": "Hello."}\n{"sentence": "a \\"quote", "id": 3}\n', ONE),
        ("rte", "in.tsv", "text_a\ttext_b\nA.\tB.\nC.\tD.\n", TWO),
        ("rte", "in.tsv", "sentence2\tsentence1\nB.\tA.\nD.\tC.\n", TWO),
        ("rte", "in.tsv", "A.\tB.\nC.\tD.\n", TWO),
        ("mrpc", "in.tsv", "\ufeffindex\t#1 String\t#2 String\n0\tA.\tB.\n1\tC.\tD.\n", TWO),
        ("mrpc", "in.jsonl", '{"text_a": "A.", "text_b": "B."}\n{"sentence1": "C.", "sentence2": "D."}\n\n', TWO),
    ],
)
def test_spellings(tmp_path, task, file, content, rows):
    path = tmp_path / file
    path.write_bytes(content.encode())
    assert tasks.find(task).read_inputs(str(path)) == rows
    packed = tmp_path / f"{file}.gz"
    packed.write_bytes(gzip.compress(content.encode()))
    assert tasks.find(task).read_inputs(str(packed)) == rows


@pytest.mark.parametrize(
    ("task", "file", "content", "message"),
    [
        ("rte", "in.tsv", b"only one\nA.\n", r"in.tsv:1: neither a header with sentence1\+sentence2 or text_a\+text_b"),
        ("sms_spam", "in.tsv", b"one\ttwo\n", r"in.tsv:1: neither a header .* nor 1 bare column\(s\) .* but 2; add"),
        ("sms_spam", "in.tsv", b"one\ntwo\tthree\n", r"in.tsv:2: 2 fields instead of 1 \(text\)"),
        ("sms_spam", "in.tsv", b"one\n\xff\n", r"in.tsv:2: byte 1 of the line is not UTF-8"),
        ("sms_spam", "in.tsv", b"text\n", r"in.tsv: only a header"),
        ("sms_spam", "in.jsonl", b"", r"in.jsonl: the file is empty"),
        ("sms_spam", "in.jsonl", b'{"text": "a"}\n{"text": \n', r"in.jsonl:2: not JSON .*one object a line"),
        ("sms_spam", "in.jsonl", b'["a"]\n', r"in.jsonl:1: not a JSON object"),
        ("sms_spam", "in.jsonl", b'{"text": "a"}\n{"txt": "b"}\n', r"in.jsonl:2: sms_spam needs 'text', each a string"),
        ("rte", "in.jsonl", b'{"text_a": "a", "text_b": 3}\n', r"in.jsonl:1: rte needs 'text_a' and 'text_b'"),
    ],
)
def test_errors(tmp_path, task, file, content, message):
    path = tmp_path / file
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        tasks.find(task).read_inputs(str(path))


def test_a_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"in.tsv: there is no such file"):
        tasks.find("rte").read_inputs(str(tmp_path / "in.tsv"))
    with pytest.raises(DataError, match="cannot be read"):
        tasks.find("rte").read_inputs(str(tmp_path))
