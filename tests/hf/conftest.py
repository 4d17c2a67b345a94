"""Small Hugging Face directories."""

import shutil

import pytest
from hf_directories import export


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """made(class) -> (a directory that is not to be changed, its parameters)."""
    known = {}

    def make(architecture="BertForPreTraining"):
        if architecture not in known:
            folder = tmp_path_factory.mktemp("hf") / architecture
            known[architecture] = folder, export(folder, architecture)
        return known[architecture]

    return make


@pytest.fixture
def copied(made, tmp_path):
    """copied(class) -> a directory of one's own."""
    return lambda architecture="BertForPreTraining": shutil.copytree(made(architecture)[0], tmp_path / "copy")
