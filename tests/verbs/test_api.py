"""`bertjax.load`: text to hidden states, filled masks and embeddings, with no architecture flags."""

import numpy as np
import pytest

import bertjax
from bertjax.errors import ConfigError, DataError

TEXTS = ["the cat sat on the mat", "a dog", "the small red bird flew over the tree and ran"]


@pytest.fixture(scope="module")
def model(pretrained):
    return bertjax.load(pretrained)


def test_tokenize_gives_arrays_with_the_usual_names(model):
    one = model.tokenize("the cat")
    assert set(one) == {"input_ids", "token_type_ids", "attention_mask"}
    assert all(array.shape == (1, one["input_ids"].shape[1]) and array.dtype == np.int32 for array in one.values())
    tokenizer = model.tokenizer
    assert one["input_ids"][0, 0] == tokenizer.cls_id and one["input_ids"][0, -1] == tokenizer.sep_id
    pair = model.tokenize("the cat", "a dog")
    assert pair["token_type_ids"].max() == 1 and (pair["input_ids"] == tokenizer.sep_id).sum() == 2
    many = model.tokenize(TEXTS)
    assert many["input_ids"].shape[0] == 3 and list(many["attention_mask"].sum(1)) == [
        model.tokenize(text)["input_ids"].shape[1] for text in TEXTS
    ]


def test_texts_are_cut_to_what_the_model_takes(model):
    assert model.tokenize("the cat " * 100)["input_ids"].shape == (1, 40)
    assert model.tokenize("the cat " * 100, max_length=12)["input_ids"].shape == (1, 12)


def test_hidden_states(model):
    inputs = model.tokenize(TEXTS)
    output = model(**inputs)
    rows, length = inputs["input_ids"].shape
    assert output.last_hidden_state.shape == (rows, length, 32) and output.pooler_output.shape == (rows, 32)
    assert [state.shape for state in output.hidden_states] == [(rows, length, 32)] * 2
    np.testing.assert_array_equal(output.hidden_states[-1], output.last_hidden_state)
    for array in (output.last_hidden_state, output.pooler_output, *output.hidden_states):
        assert isinstance(array, np.ndarray) and array.dtype == np.float32 and np.isfinite(array).all()
    assert np.abs(output.pooler_output).max() <= 1  # tanh


def test_padding_changes_nothing(model):
    together = model(**model.tokenize(TEXTS))
    for row, text in enumerate(TEXTS):
        alone = model(**model.tokenize(text))
        size = alone.last_hidden_state.shape[1]
        np.testing.assert_allclose(together.last_hidden_state[row, :size], alone.last_hidden_state[0], atol=1e-5)
        np.testing.assert_allclose(together.pooler_output[row], alone.pooler_output[0], atol=1e-5)


def test_types_and_mask_may_be_left_out(model):
    inputs = model.tokenize("the cat sat")
    np.testing.assert_allclose(
        model(inputs["input_ids"]).last_hidden_state, model(**inputs).last_hidden_state, atol=1e-6
    )


@pytest.mark.parametrize("ids", [[1, 2, 3], [[]], [[[1]]], [[-1, 2]], [[2, 10_000]], [[2] * 41]])
def test_what_is_not_a_batch_of_ids(model, ids):
    with pytest.raises(DataError, match="input_ids"):
        model(np.array(ids, np.int32))


@pytest.mark.parametrize("types", [[-1, 0], [0, 2]])
def test_types_the_model_does_not_have(model, types):
    with pytest.raises(DataError, match=r"token_type_ids hold .* the model has 2 types"):
        model(np.array([[1, 2]]), np.array([types]))


def test_fill_mask(model):
    filled = model.fill_mask("The [MASK] sat on the mat.", k=7)
    assert len(filled) == 7
    chances = [candidate.probability for candidate in filled]
    assert chances == sorted(chances, reverse=True) and 0 < sum(chances) < 1
    for candidate in filled:
        assert candidate.token in model.tokenizer.vocabulary
        assert candidate.text == f"The {candidate.token} sat on the mat."
    assert model.fill_mask("The [MASK] sat on the mat.")[:3] == filled[:3]
    everything = model.fill_mask("The [MASK] sat on the mat.", k=model.tokenizer.vocab_size)
    assert sum(candidate.probability for candidate in everything) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("text", ["no mask", "[MASK] and [MASK]", "the cat " * 50 + "[MASK]"])
def test_fill_mask_takes_one_mask(model, text):
    with pytest.raises(DataError, match=r"\[MASK\]"):
        model.fill_mask(text)


def test_embeddings(model):
    mean, first = model.embed(TEXTS), model.embed(TEXTS, pooling="cls")
    assert mean.shape == first.shape == (3, 32)
    output = model(**model.tokenize(TEXTS))
    np.testing.assert_allclose(first, output.last_hidden_state[:, 0], atol=1e-6)
    size = model.tokenize(TEXTS[1])["input_ids"].shape[1]
    np.testing.assert_allclose(mean[1], output.last_hidden_state[1, :size].mean(0), atol=1e-6)
    np.testing.assert_allclose(model.embed([TEXTS[1]])[0], mean[1], atol=1e-5)


def test_embeddings_of_no_text(model):
    assert model.embed([]).shape == (0, 32) and model.embed([]).dtype == np.float32
    with pytest.raises(ConfigError, match="batch_size=0 must be at least 1"):
        model.embed(TEXTS, batch_size=0)


def test_a_fine_tuned_run(finetuned, model):
    tuned = bertjax.load(finetuned)
    assert tuned.tokenizer.hash == model.tokenizer.hash
    output = tuned(**tuned.tokenize(TEXTS))
    assert output.pooler_output.shape == (3, 32)
    assert not np.allclose(output.last_hidden_state, model(**model.tokenize(TEXTS)).last_hidden_state)
    with pytest.raises(ConfigError, match="no masked-language-model head: load a pretraining run"):
        tuned.fill_mask("the [MASK]")


def test_what_is_not_a_run(home):
    with pytest.raises(DataError, match="no such run"):
        bertjax.load(home / "nowhere")
    with pytest.raises(DataError, match="no checkpoints/"):
        bertjax.load(home)


def test_tokenizers_of_runs_data_and_files(pretrained, data, model):
    for path in (pretrained, data, data / "tokenizer", data / "tokenizer" / "vocab.txt"):
        assert bertjax.load_tokenizer(path).vocabulary == model.tokenizer.vocabulary
    assert bertjax.load_tokenizer(pretrained).hash == model.tokenizer.hash
    assert bertjax.load_tokenizer(str(data))("the cat")["input_ids"].ndim == 1
