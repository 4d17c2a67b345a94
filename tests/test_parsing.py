"""JSON of anyone's is a value or a ValueError, and a name from a file is one beside it."""

import json

import pytest

from bertjax.parsing import is_name, parse


@pytest.mark.parametrize("value", [{"a": [1, 2.5, None, True, "é\u2028"]}, [], "x", 3, {"": {}}])
def test_what_json_says(value):
    text = json.dumps(value, ensure_ascii=False)
    assert parse(text) == parse(text.encode()) == parse(b"\xef\xbb\xbf" + text.encode(), strict=True) == value


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5_000, b'"\xff"', b'"\xed\xa0\x80"', '"a"'.encode("utf-16")],
)
@pytest.mark.parametrize("strict", [False, True])
def test_whatever_is_wrong_is_a_value_error(data, strict):
    with pytest.raises(ValueError):
        parse(data, strict=strict)


def test_half_a_pair_of_surrogates_is_mended_or_refused():
    text = r'{"a\ud800": ["\uDC00b", "\ud83d\ude00"]}'
    assert parse(text) == {"a?": ["?b", "😀"]}
    assert parse(r'"\ud83d\ude00"', strict=True) == "😀"
    with pytest.raises(ValueError, match="half a pair of surrogates in"):
        parse(text, strict=True)


def test_a_key_that_stands_twice():
    text = '{"b": {"a": 1, "c": 2, "a": 3}}'
    assert parse(text) == {"b": {"a": 3, "c": 2}}
    with pytest.raises(ValueError, match="the key 'a' stands twice"):
        parse(text, strict=True)


@pytest.mark.parametrize("name", ["a", "train-00000.array_record", "한국.tsv", "a b", "a..b", "x" * 255])
def test_names(name):
    assert is_name(name)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".hidden", "../x", "a/b", "/etc/passwd", "a\\b", "a\0", "a\n", "\x1b[2J", "x" * 256, 3, None],
)
def test_what_is_no_name(name):
    assert not is_name(name)
