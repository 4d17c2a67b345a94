"""Every kind of vocabulary goes the whole way: prepare, pretrain, load, fill in, fine-tune."""

import json
from dataclasses import replace

import numpy as np
import pytest

import bertjax as api
from bertjax import cli, run
from bertjax.config import Pretrain
from bertjax.data.meta import Meta
from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import DataError
from bertjax.recipe import load_recipe

KINDS = {"bpe": ("<mask>", 360), "unigram": ("[MASK]", 90)}


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def model(kind, home):
    """Two steps on a vocabulary of each kind."""
    out = home / kind
    arguments = ["--corpus", home / "corpus.txt", "--out", out / "data", "--tokenizer-kind", kind, "--held-out", 0.15]
    assert cli.run(["prepare", *map(str, arguments), "--vocab-size", str(KINDS[kind][1])]) == 0
    recipe = load_recipe(str(home / "pretrain.py"), Pretrain)
    run.pretrain(replace(recipe, data=(str(out / "data"),), out=str(out / "run"), steps=2, eval_batches=1))
    return api.load(out / "run")


def test_what_was_trained_is_what_is_loaded(kind, home, model):
    tokenizer = model.tokenizer
    assert 45 < tokenizer.vocab_size <= KINDS[kind][1]
    for path in (home / kind / "data", home / kind / "run", home / kind / "run" / "tokenizer"):
        assert api.load_tokenizer(path).hash == tokenizer.hash
    assert Tokenizer.from_json(tokenizer.to_json()).hash == tokenizer.hash
    assert tokenizer.unk_id not in tokenizer.encode_batch(["the small red bird"])[0]


def test_a_vocabulary_that_was_made_before(kind, home, model, bertjax):
    folder = home / kind
    arguments = ["--corpus", home / "corpus.txt", "--held-out", 0.15, "--tokenizer", folder / "data" / "tokenizer"]
    assert bertjax("prepare", *arguments, "--out", folder / "again").code == 0
    assert Meta.load(folder / "again").content_hash == Meta.load(folder / "data").content_hash


def test_fill_mask(kind, model):
    mask = KINDS[kind][0]
    filled = model.fill_mask(f"the {mask} sat on the mat.", k=model.tokenizer.vocab_size)
    assert sum(candidate.probability for candidate in filled) == pytest.approx(1, abs=1e-4)
    words = {candidate.text for candidate in filled}
    assert {"the cat sat on the mat.", "the dog sat on the mat."} <= words
    with pytest.raises(DataError, match="fill_mask takes exactly one"):
        model.fill_mask("no mask here")


def test_embeddings(model):
    vectors = model.embed(["the cat sat", "a dog"])
    assert vectors.shape == (2, 32) and np.isfinite(vectors).all()


def test_exported_with_a_tokenizer_json_and_read_back(kind, home, model, bertjax):
    out = home / kind / "exported"
    done = bertjax("convert", "--from", home / kind / "run", "--to", out)
    assert done.code == 0, done.err
    assert json.loads((out / "parity.json").read_text())["tokenizer_equal"] and (out / "tokenizer.json").is_file()
    assert api.load(out).tokenizer.hash == api.load_tokenizer(out).hash == model.tokenizer.hash


def test_fine_tuning_and_predictions(kind, home, model, bertjax):
    out = home / kind / "tuned"
    arguments = ["--task", "sms_spam", "--from", home / kind / "run", "--data", home, "--out", out, "--epochs", 1]
    assert bertjax("finetune", home / "finetune.py", *arguments).code == 0
    (home / "texts.tsv").write_text("free prize now\nsee you <mask> later\n")
    done = bertjax("predict", out, "--input", home / "texts.tsv", "--out", home / kind / "predicted.tsv")
    assert done.code == 0, done.err
    assert len((home / kind / "predicted.tsv").read_text().splitlines()) == 3


def test_a_kind_is_not_for_loading(kind, home, bertjax):
    done = bertjax(
        "prepare",
        "--corpus",
        home / "corpus.txt",
        "--out",
        home / "no",
        "--tokenizer",
        home / kind / "data/tokenizer",
        "--tokenizer-kind",
        kind,
    )
    assert done.code == 2 and "leave it out with --tokenizer" in done.err
