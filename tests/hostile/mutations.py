"""Ways to spoil a valid file, drawn by hypothesis: bytes, lines, and the values of JSON."""

import json
import re

from hypothesis import strategies as st

DEEP = 20_000  # brackets: the parser's recursion ends long before
NESTED: list = []
for _ in range(800):  # as deep as the parser goes
    NESTED = [NESTED]
VALUES = (  # each in the place of any value of a JSON file
    *(None, True, False, 0, -1, 1, 3, 1 << 31, 1 << 63, -(1 << 63), 1 << 70, 1e308, 0.5),
    *(float("nan"), float("inf"), "", " ", "a", "\0", "\ud800", "\u2028\u0085", "x" * 10_000),
    *("../../etc/passwd", "/etc/passwd", "<script>alert(1)</script>", "antigravity.hook", "os.path", "0" * 400),
    *(NESTED, [], {}, [[]], [None], {"a": {}}, [1, "a", None], ["a", "b"], {"0": "a", "1": "a"}, [{}], [0] * 2_000),
)
CHUNKS = (
    *(b"\0", b"\r\n", b"\n\n", b"\t", b'"', b"\\", b"\xff", b"\xc3", b"\xef\xbb\xbf", b"\xff\xfe", b"\x1c\x85"),
    *("\u2028\u0085\ufeff".encode(), b"\xed\xa0\x80", b"[" * DEEP, b'{"a":' * DEEP, b"x" * 70_000, b" " * 70_000),
    *(b"9223372036854775808", b"9" * 5_000, b"NaN", b"-", b"1e999", b'<doc id="', b"</doc>", b"<e1>", b"##", b"{}"),
)


class File(bytes):
    """Bytes that are shown in short."""

    def __repr__(self):
        return f"<{len(self):,} bytes: {bytes(self[:300])!r}>"


@st.composite
def spoilt(draw, seeds):
    """One of the valid files, spoilt one to three times."""
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, 3))):
        data = draw(st.sampled_from(WAYS))(draw, data)
    return File(data)


def _place(draw, data):
    return draw(st.integers(0, max(0, len(data) - 1)))


def _flip(draw, data):
    at = _place(draw, data)
    return data[:at] + bytes([draw(st.integers(0, 255))]) + data[at + 1 :]


def _cut(draw, data):
    return data[: _place(draw, data)]


def _delete(draw, data):
    at = _place(draw, data)
    return data[:at] + data[at + draw(st.integers(1, 64)) :]


def _insert(draw, data):
    at = _place(draw, data)
    return data[:at] + draw(st.sampled_from(CHUNKS)) + data[at:]


def _repeat(draw, data):
    at = _place(draw, data)
    piece = data[at : at + draw(st.integers(1, 256))]
    return data[:at] + piece * draw(st.integers(2, 20)) + data[at:]


def _lines(draw, data):
    """Swaps, repeats or empties lines, or ends them otherwise."""
    lines = data.split(b"\n")
    a, b = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
    how = draw(st.sampled_from(["swap", "repeat", "empty", "crlf", "one", "blank"]))
    if how == "swap":
        lines[a], lines[b] = lines[b], lines[a]
    elif how == "repeat":
        lines.insert(a, lines[b])
    elif how == "empty":
        lines[a] = b""
    elif how == "blank":
        lines = [b" "] * len(lines)
    return {"crlf": b"\r\n", "one": b""}.get(how, b"\n").join(lines)


def _number(draw, data):
    """Another number in the place of one."""
    found = list(re.finditer(rb"-?\d+", data))
    if not found:
        return data
    where = found[draw(st.integers(0, len(found) - 1))]
    number = draw(st.sampled_from([b"-1", b"0", b"1", b"2.5", b"1e400", b"9" * 19, b"9" * 5_000, b"NaN", b"07"]))
    return data[: where.start()] + number + data[where.end() :]


def _json(draw, data):
    """Another value in the place of any in a JSON file, or in one of the lines of a file of such; or a key twice."""
    try:
        return _changed(draw, json.loads(data))
    except (ValueError, RecursionError):
        pass
    lines = data.split(b"\n")
    at = draw(st.integers(0, len(lines) - 1))
    try:
        lines[at] = _changed(draw, json.loads(lines[at]))
    except (ValueError, RecursionError):
        return _flip(draw, data)
    return b"\n".join(lines)


def _changed(draw, value):
    path = _path(draw, value)
    new = draw(st.sampled_from(VALUES))
    if not path:
        return json.dumps(new).encode()
    owner = value
    for step in path[:-1]:
        owner = owner[step]
    how = draw(st.sampled_from(["set", "set", "set", "drop", "deep", "twice", "add"]))
    if how == "drop":
        del owner[path[-1]]
    elif how == "add" and isinstance(owner, dict):
        owner[draw(st.sampled_from(["", "name", "type", "__class__", "\ud800", "../x"]))] = new
    else:
        owner[path[-1]] = "DEEP" if how == "deep" else new
    text = json.dumps(value).encode()
    if how == "deep":
        return text.replace(b'"DEEP"', b"[" * DEEP + b"]" * DEEP)
    if how == "twice" and isinstance(owner, dict):
        pair = json.dumps({path[-1]: draw(st.sampled_from(VALUES))}).encode()[1:-1]
        return text.replace(b"{", b"{" + pair + b", ", 1)
    return text


def _path(draw, value):
    """Keys and indices to any value inside of a value."""
    path = []
    while isinstance(value, dict | list) and value and draw(st.integers(0, 9)):
        step = draw(st.sampled_from(sorted(value))) if isinstance(value, dict) else draw(st.integers(0, len(value) - 1))
        path.append(step)
        value = value[step]
    return path


def _anything(draw, data):
    return draw(st.binary(max_size=200))


WAYS = (_anything, _flip, _cut, _delete, _insert, _repeat, _lines, _number, _json, _json, _json)
