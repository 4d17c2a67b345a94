import json
import random

import pytest
import tokenizers
from tokenizers import normalizers

from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import DataError

TEXT = "the them cat cats playing 고양이 café don't 1999, it, (so) Model, 東京 —"
WORDS = TEXT.split()
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture(scope="module")
def texts():
    rng = random.Random(0)
    return [" ".join(rng.choices(WORDS, k=10)) for _ in range(200)]


@pytest.fixture(scope="module")
def wordpiece(texts):
    made = tokenizers.BertWordPieceTokenizer(lowercase=True)
    made.train_from_iterator(texts, vocab_size=90, special_tokens=SPECIALS, show_progress=False)
    return made


@pytest.fixture(scope="module")
def bpe(texts):
    made = tokenizers.ByteLevelBPETokenizer(add_prefix_space=True)
    made.train_from_iterator(texts, vocab_size=330, special_tokens=["<s>", "<pad>", "</s>"], show_progress=False)
    made.add_special_tokens(["<unk>", "<mask>"])
    made.normalizer = normalizers.Lowercase()
    return made


def test_the_ids_are_the_library_s(wordpiece, bpe, texts, tmp_path):
    for number, reference in enumerate((wordpiece, bpe)):
        folder = tmp_path / str(number)
        folder.mkdir()
        reference.save(str(folder / "tokenizer.json"))
        tokenizer = Tokenizer.load(folder)
        assert tokenizer.rows == reference.get_vocab()
        odd = ["", " the  cats\t", "x" * 60, "the cats" * 40 + "\u3000é"]
        expected = [reference.encode(text, add_special_tokens=False).ids for text in [*texts, *odd]]
        assert tokenizer.encode_batch([*texts, *odd]) == expected
        assert tokenizer.mask_id not in tokenizer.encode_batch([f"the {tokenizer.mask_token} cat"])[0]
        tokenizer.save(folder / "saved")
        assert Tokenizer.load(folder / "saved").hash == tokenizer.hash
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.mask_id) == (
        1,
        tokenizer.vocab_size - 2,
        tokenizer.vocab_size - 1,
    )


def test_merges_as_older_files_have_them(bpe, tmp_path):
    data = json.loads(bpe.to_str())
    data["model"]["merges"] = [" ".join(pair) for pair in data["model"]["merges"]]
    (tmp_path / "any-name.json").write_text(json.dumps(data))
    (tmp_path / "tokenizer.json").write_text(bpe.to_str())
    assert Tokenizer.load(tmp_path / "any-name.json").hash == Tokenizer.load(tmp_path / "tokenizer.json").hash


def test_a_vocab_json_that_has_a_token_called_model(texts, tmp_path):
    tokenizer = Tokenizer.train(["model model"] * 9, 300, lowercase=False, kind="bpe")
    assert "model" in tokenizer.rows
    tokenizer.save(tmp_path)
    assert Tokenizer.load(tmp_path / "vocab.json").hash == tokenizer.hash


def changed(reference, place, value):
    data = json.loads(reference.to_str())
    *path, last = place.split(".")
    part = data
    for name in path:
        part = part[name]
    part[last] = value
    return json.dumps(data)


@pytest.mark.parametrize(
    "kind, place, value, message",
    [
        ("wordpiece", "model.type", "WordLevel", "model.type is 'WordLevel'; known: WordPiece, BPE, Unigram"),
        ("wordpiece", "model.type", "Unigram", r"model.vocab is not a list of \[piece, score\]"),
        ("wordpiece", "model.continuing_subword_prefix", "@@", "prefix is '@@', not '##'"),
        ("wordpiece", "model.unk_token", "[UNKNOWN]", r"model.unk_token '\[UNKNOWN\]' is not in the vocabulary"),
        ("wordpiece", "normalizer.lowercase", [], "the tokenizers library cannot read it"),
        ("wordpiece", "normalizer.type", "Surprise", "normalizer has a 'Surprise'; known: NFC, "),
        ("wordpiece", "pre_tokenizer", None, "no pre_tokenizer, so nothing tells where a word begins"),
        ("wordpiece", "model.vocab", {"a": 0}, r"'\[PAD\]' and 'a' have the same id 0"),
        ("wordpiece", "model.vocab", [["a", 0.5]], "model.vocab is list, not an object"),
        ("wordpiece", "added_tokens", [{"id": 7, "content": "[PAD]"}], r"added token '\[PAD\]' has id 7, .* 0"),
        ("wordpiece", "added_tokens", [{"id": 90, "content": "x y"}], "'x y' is looked for in texts; only special"),
        ("wordpiece", "added_tokens", ["x"], "added_tokens is not a list of objects"),
        (
            "wordpiece",
            "added_tokens",
            [{"id": 4_000_000_000, "content": "y", "special": True}],
            "'y' has id 4000000000",
        ),
        (
            "bpe",
            "pre_tokenizer",
            {"type": "Split", "pattern": {"Regex": "(a+)+$"}},
            "pre_tokenizer has a 'Split'; known:",
        ),
        ("bpe", "pre_tokenizer", {"type": "Sequence", "pretokenizers": 7}, "pre_tokenizer has a 'int'"),
        ("bpe", "pre_tokenizer", {"type": "WhitespaceSplit"}, r"no pre_tokenizer Metaspace \(with '▁'\) or ByteLevel"),
        (
            "bpe",
            "normalizer",
            {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""},
            "known: String, or Re",
        ),
        ("bpe", "normalizer", {"type": "Precompiled", "precompiled_charsmap": "AAAA"}, "library cannot read it"),
        ("bpe", "model.dropout", 0.1, "model.dropout is 0.1: a text would have other ids each time"),
        ("bpe", "model.merges", None, "model.merges is missing"),
        ("bpe", "model.merges", [["a"]], r"merge 1, \['a'\], is not two pieces"),
        ("bpe", "model.merges", [["a", 1]], r"merge 1, \['a', 1\], is not two pieces"),
        ("bpe", "model.merges", [["q", "qq"]], "merge 1, 'q qq': 'qq+' is not in the vocabulary"),
    ],
)
def test_what_is_not_known(request, tmp_path, kind, place, value, message):
    file = tmp_path / "tokenizer.json"
    file.write_text(changed(request.getfixturevalue(kind), place, value))
    with pytest.raises(DataError, match=message) as caught:
        Tokenizer.load(tmp_path)
    assert str(file) in str(caught.value)


def test_no_model_and_no_file(tmp_path):
    (tmp_path / "tokenizer.json").write_text('{"model": []}')
    with pytest.raises(DataError, match="model is list, not an object"):
        Tokenizer.load(tmp_path)
    with pytest.raises(DataError, match=r"no such vocabulary; give a vocab\.json or tokenizer\.json"):
        Tokenizer.load(tmp_path / "other.json")


def test_a_wordpiece_vocabulary_without_a_mask(wordpiece, tmp_path):
    data = json.loads(wordpiece.to_str())
    data["model"]["vocab"] = {name: row for row, name in enumerate(SPECIALS[:4])}
    (tmp_path / "tokenizer.json").write_text(json.dumps({**data, "added_tokens": []}))
    with pytest.raises(DataError, match=r"the vocabulary has no \[MASK\]"):
        Tokenizer.load(tmp_path)


def processed(bpe, file, post_processor):
    data = {**json.loads(bpe.to_str()), "post_processor": post_processor}
    file.write_text(json.dumps(data))
    return Tokenizer.load(file).separators


def test_how_many_separators_a_pair_has(bpe, tmp_path):
    file = tmp_path / "tokenizer.json"
    mark, text = {"SpecialToken": {"id": "</s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    template = {"type": "TemplateProcessing", "pair": [mark, text, mark, text, mark]}
    assert processed(bpe, file, None) == processed(bpe, file, {"type": "ByteLevel"}) == 1
    assert processed(bpe, file, template) == 1
    template = {**template, "pair": [mark, text, mark, mark, text, mark]}
    assert processed(bpe, file, template) == 2
    assert processed(bpe, file, {"type": "Sequence", "processors": [{"type": "ByteLevel"}, template]}) == 2
    assert processed(bpe, file, {"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0]}) == 2
    for damaged in ([], "x", {"processors": 3}, {"processors": [3]}, {"pair": 3}):
        assert processed(bpe, file, damaged) == 1
