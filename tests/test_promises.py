"""PROMISES.md names tests and scripts that exist, and messages that are ours and that a test waits for."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "PROMISES.md").read_text()
ROWS = [[cell.strip() for cell in line[1:-1].split("|")] for line in PAGE.split("\n") if line.startswith("| ")]
ROWS = [row for row in ROWS if row[0] not in ("promise", "message")]
MESSAGES = [row for row in ROWS if row[0].startswith("`")]
PROMISES = [row for row in ROWS if row not in MESSAGES]


@cache
def functions(path):
    return {node.name for node in ast.walk(ast.parse((ROOT / path).read_text())) if isinstance(node, ast.FunctionDef)}


@cache
def said():
    """All that the program can say, as one text: the parts of strings that stand side by side are joined."""
    texts = []
    for path in (ROOT / "bertjax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return "\n".join(texts)


def names(text):
    return re.findall(r"`((?:tests|bench)/[^`]+)`", text)


def test_there_are_promises_and_messages():
    assert len(PROMISES) >= 10 and len(MESSAGES) >= 6


@pytest.mark.parametrize("name", sorted(set(names(PAGE))))
def test_what_is_named_exists(name):
    path, _, function = name.partition("::")
    path = path.split()[0]
    assert (ROOT / path).exists() and (not function or function in functions(path))


@pytest.mark.parametrize("row", PROMISES, ids=lambda row: row[0][:40])
def test_every_promise_is_tested(row):
    assert any(name.startswith("tests/") for name in names(row[1]))


@pytest.mark.parametrize("row", MESSAGES, ids=lambda row: row[0][:40])
def test_every_message_is_ours_and_a_test_provokes_it(row):
    message, *_, test = row
    text = re.search("`(.*)`", message)[1]
    assert text in said() and names(test)
    path, _, function = names(test)[0].partition("::")
    source = (ROOT / path).read_text()
    body = next(n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef) and n.name == function)
    around = ast.get_source_segment(source, body) + "".join(map(ast.unparse, body.decorator_list))
    assert text in around
