"""Modules of others: one that is not there is told from one that has a fault, which is told with its line."""

import re
import sys

import pytest

from bertjax import registry
from bertjax.errors import ConfigError, DataError


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """lab(text) writes my_lab/models/foo.py; gives its path."""
    for package in ("my_lab", "my_lab/models"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)

    def write(text):
        (tmp_path / "my_lab/models/foo.py").write_text(text)
        return tmp_path / "my_lab/models/foo.py"

    yield write
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_lab"]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import os\nimport nowhere.at_all", ":2: ModuleNotFoundError: No module named 'nowhere'"),
        ("from os import nothing", ":1: ImportError: cannot import name 'nothing'"),
        ("\n\nWIDTH = 1 / 0", ":3: ZeroDivisionError: division by zero"),
        ("import json\n\nX = json.loads('{')", ":3: JSONDecodeError"),
        ("def f(:\n", ":1: SyntaxError: invalid syntax"),
    ],
)
def test_a_fault_of_a_module_is_told_with_its_line(lab, text, said):
    file = lab(text)
    with pytest.raises(ConfigError, match=rf"models: cannot import 'my_lab.models.foo': {file}{re.escape(said)}"):
        registry.find("models", "my_lab.models.foo")


@pytest.mark.parametrize("name", ["my_lab.models.bar", "my_lab.tasks.foo", "your_lab.models.foo", "a..b", "x."])
def test_a_module_that_is_not_there(lab, name):
    with pytest.raises(ConfigError, match=r"models: cannot import .*No module named .*is it on PYTHONPATH\?"):
        registry.find("models", name)


def test_a_name_that_is_none():
    with pytest.raises(ConfigError, match=r"models: cannot import '\.x'"):
        registry.find("models", ".x")


def test_what_a_module_tells_the_user_stays(lab):
    lab("from bertjax.errors import DataError\nraise DataError('give a file')")
    with pytest.raises(DataError, match=r"^give a file$"):
        registry.find("models", "my_lab.models.foo")
