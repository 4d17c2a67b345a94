"""Directories as they are published: every spelling gives the same parameters, every mismatch is told at once."""

import json
import re

import jax
import numpy as np
import pytest
from helpers import ONE, TINY
from hf_directories import BPE, OBJECTIVES, ROBERTA_TINY, TOKENIZER, configure, export, rename
from safetensors.numpy import load_file, save_file

from bertjax.data.wordpiece import WordPiece
from bertjax.errors import DataError
from bertjax.hf.read import is_directory, read
from bertjax.train.mesh import make_mesh
from bertjax.train.padding import held


def params(found):
    shapes = found.weights.shapes
    return found.weights.params(held(shapes, make_mesh(ONE)))


def equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("architecture", OBJECTIVES)
def test_what_was_written_comes_back(made, architecture):
    folder, written = made(architecture)
    found = read(folder)
    model, tokenizer = (ROBERTA_TINY, BPE) if architecture.startswith("R") else (TINY, TOKENIZER)
    assert found.model == model and found.about.architecture == architecture
    assert found.objective == OBJECTIVES[architecture]
    assert found.tokenizer.hash == tokenizer.hash and found.length == TINY.max_length
    equal(params(found), written)


def test_positions_of_roberta_begin_after_the_padding(copied, made):
    folder = copied("RobertaForMaskedLM")
    config = json.loads((folder / "config.json").read_text())
    assert (config["max_position_embeddings"], config["pad_token_id"], config["type_vocab_size"]) == (34, 1, 1)
    tensors = load_file(folder / "model.safetensors")
    tensors["roberta.embeddings.position_embeddings.weight"][:2] = 99  # never used
    save_file(tensors, folder / "model.safetensors")
    equal(params(read(folder)), made("RobertaForMaskedLM")[1])
    configure(folder, pad_token_id=None)  # 1, as the class has it
    read(folder)
    configure(folder, pad_token_id=-1)
    with pytest.raises(DataError, match=r"pad_token_id is -1, but positions are counted from it"):
        read(folder)


def test_an_old_classifier_of_roberta_has_a_pooler_it_does_not_use(copied, made):
    folder = copied("RobertaForSequenceClassification")
    tensors = load_file(folder / "model.safetensors")
    tensors |= {"roberta.pooler.dense.weight": np.ones((32, 32)), "roberta.pooler.dense.bias": np.ones(32)}
    save_file(tensors, folder / "model.safetensors")
    equal(params(read(folder)), made("RobertaForSequenceClassification")[1])


def test_pairs_of_roberta_have_two_separators(copied, tmp_path):
    folder = copied("RobertaModel")
    pair = [0, 6, 2, 2, 7, 2]
    assert read(folder).tokenizer.pair_ids([6], [7])[0].tolist() == pair
    (folder / "tokenizer.json").unlink()  # vocab.json and merges.txt do not say it
    (folder / "tokenizer_config.json").unlink()
    assert read(folder).tokenizer.pair_ids([6], [7])[0].tolist() == pair


def old_norms(name):
    return re.sub("LayerNorm.bias$", "LayerNorm.beta", re.sub("LayerNorm.weight$", "LayerNorm.gamma", name))


@pytest.mark.parametrize(
    "change",
    [
        lambda name: name.removeprefix("bert."),
        lambda name: name if name.startswith(("bert.", "cls.")) else f"bert.{name}",
        old_norms,
        lambda name: old_norms(name.removeprefix("bert.")),
    ],
    ids=["no prefix", "prefix", "gamma and beta", "neither"],
)
@pytest.mark.parametrize("architecture", ["BertForPreTraining", "BertModel"])
def test_other_spellings(copied, made, architecture, change):
    folder = copied(architecture)
    rename(folder, change)
    equal(params(read(folder)), made(architecture)[1])


def test_what_repeats_other_tensors_is_left_out(copied, made):
    folder = copied()
    tensors = load_file(folder / "model.safetensors")
    tensors["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"].copy()
    tensors["cls.predictions.decoder.bias"] = tensors.pop("cls.predictions.bias")
    tensors["bert.embeddings.position_ids"] = np.arange(32)[None]
    save_file(tensors, folder / "model.safetensors")
    equal(params(read(folder)), made()[1])
    tensors["cls.predictions.decoder.weight"] += 1
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(DataError, match=r"cls.predictions.decoder.weight is not bert.embeddings.word_embedd"):
        read(folder)


def test_the_class_named_may_have_fewer_heads_than_the_weights(copied, made):
    folder = copied()
    configure(folder, architectures=["BertForMaskedLM"])  # as bert-base-uncased has it
    found = read(folder)
    assert found.weights.parts == ["encoder", "mlm", "nsp", "pooler"]
    assert found.objective == OBJECTIVES["BertForPreTraining"]
    equal(params(found), made()[1])


def test_heads_that_no_objective_has_together(copied):
    folder = copied()
    rename(folder, lambda name: name, drop=["cls.seq_relationship.weight", "cls.seq_relationship.bias"])
    found = read(folder)
    assert found.weights.parts == ["encoder", "mlm", "pooler"]
    assert found.objective == OBJECTIVES["BertForMaskedLM"]


def test_a_regression(tmp_path, made):
    export(tmp_path, "BertForSequenceClassification")
    tensors = load_file(tmp_path / "model.safetensors")
    tensors |= {
        "classifier.weight": tensors["classifier.weight"][:1],
        "classifier.bias": tensors["classifier.bias"][:1],
    }
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(DataError, match=r"the classifier has 1 outputs but id2label of config.json 3"):
        read(tmp_path)
    configure(tmp_path, id2label=None)
    assert read(tmp_path).objective.classes == 0


def test_every_mismatch_is_told_at_once_with_the_nearest_name(copied):
    folder = copied()
    rename(folder, lambda name: name.replace("layer.1.output.dense", "layer.1.ouput.dense"))
    configure(folder, vocab_size=127 + 30, intermediate_size=65)
    with pytest.raises(DataError) as error:
        read(folder)
    message = str(error.value)
    for part in (
        "missing: bert.encoder.layer.1.output.dense.bias (nearest: bert.encoder.layer.1.ouput.dense.bias)",
        "not known: bert.encoder.layer.1.ouput.dense.weight (nearest: bert.encoder.layer.1.output.dense.weight)",
        "bert.embeddings.word_embeddings.weight: the file has (128, 32), config.json means (157, 32)",
        "cls.predictions.bias: the file has (128,), config.json means (157,)",
        "bert.encoder.layer.0.intermediate.dense.weight: the file has (64, 32), config.json means (65, 32)",
        "Get the directory anew, or correct it.",
    ):
        assert part in message, message


def test_many_mismatches_are_counted(copied):
    folder = copied()
    rename(folder, lambda name: name.replace("attention", "atention"))
    with pytest.raises(DataError, match=r"and 20 more"):
        read(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda name: name.replace("layer.1.", "layer.2."), "the weights have 2 (the last is number 2, from 0)"),
        (lambda name: name.replace("bert.", "model."), "not known: model.embeddings.LayerNorm.bias"),
        (lambda name: f"x.{name}", "not known: x.bert.embeddings.LayerNorm.bias (nearest: "),
    ],
)
def test_names_of_other_models(copied, change, message):
    folder = copied()
    rename(folder, change)
    with pytest.raises(DataError, match=re.escape(message)):
        read(folder)


def test_layers_that_are_not_there(copied):
    folder = copied()
    configure(folder, num_hidden_layers=3)
    with pytest.raises(DataError, match=r"config.json has 3 layers, the weights have 2"):
        read(folder)


def test_the_same_tensor_under_two_names(copied):
    folder = copied()
    tensors = load_file(folder / "model.safetensors")
    tensors["pooler.dense.bias"] = tensors["bert.pooler.dense.bias"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(DataError, match=r"pooler.dense.bias are the same"):
        read(folder)


def test_parts_that_are_not_there(made):
    found = read(made("BertModel")[0])
    with pytest.raises(DataError, match=r"the weights have no mlm; they have"):
        found.weights.params({"mlm": {}})


def test_a_vocabulary_beyond_the_table_is_refused_with_its_line(copied):
    folder = copied()
    with (folder / "vocab.txt").open("a") as file:
        file.write("beyond\n")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(DataError, match=r"vocab.txt:129: 'beyond' has id 128, but vocab_size of config.json is 128"):
        read(folder)
    WordPiece([*TOKENIZER.vocabulary, "beyond"], lowercase=True).save(folder)
    (folder / "vocab.txt").write_text((folder / "vocab.txt").read_text().replace("beyond", "word1"))
    with pytest.raises(DataError, match=r"vocab.txt:129: 'word1' stands on line \d+ already"):
        read(folder)


def test_a_table_with_more_rows_than_the_vocabulary_is_kept(copied, made):
    folder = copied()
    tensors = load_file(folder / "model.safetensors")
    for name in ("bert.embeddings.word_embeddings.weight", "cls.predictions.bias"):
        tensors[name] = np.concatenate([tensors[name], np.ones_like(tensors[name][:8])])
    save_file(tensors, folder / "model.safetensors")
    configure(folder, vocab_size=136)
    found = read(folder)
    assert (found.model.vocab_size, found.tokenizer.vocab_size) == (136, 128)


@pytest.mark.parametrize(
    ("option", "value"), [("tokenize_chinese_chars", False), ("strip_accents", False), ("do_basic_tokenize", False)]
)
def test_tokenizers_that_cut_otherwise(copied, option, value):
    folder = copied()
    (folder / "tokenizer.json").unlink()
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), option: value}))
    with pytest.raises(DataError, match=f"{option} is {value}; known"):
        read(folder)


def test_added_tokens(copied):
    folder = copied()
    (folder / "tokenizer.json").unlink()
    (folder / "added_tokens.json").write_text('{"word3": 8}')
    read(folder)
    (folder / "added_tokens.json").write_text('{"<new>": 128}')
    with pytest.raises(DataError, match=r"'<new>' is not row 128 of the vocabulary; added tokens are not known here"):
        read(folder)


@pytest.mark.parametrize(("said", "length"), [(24, 24), (512, 32), (10**30, 32), (3, 32), (None, 32), (True, 32)])
def test_the_length_texts_are_cut_to(copied, said, length):
    folder = copied()
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_max_length": said}))
    assert read(folder).length == length


def test_what_is_a_directory(made, tmp_path):
    assert is_directory(made()[0])
    assert not is_directory(tmp_path)
    (tmp_path / "config.json").write_text('{"command": "finetune"}')  # a run that ended before its first checkpoint
    assert not is_directory(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert is_directory(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    assert not is_directory(tmp_path)
