import base64
import io
import json
import os
import pickle
import random
import subprocess
import sys
import unicodedata

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from bertjax.data import spiece
from bertjax.data.specials import ALBERT
from bertjax.data.spiece import SentencePiece
from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import ConfigError, DataError

TEXT = "the them then other cat cats 고양이 나는 café don't 1999, 2,000, 99 '' `` it, (so) the. Σας —"
WORDS = TEXT.split()


@pytest.fixture(scope="module")
def texts():
    rng = random.Random(0)
    return [" ".join(rng.choices(WORDS, k=12)) for _ in range(400)]


@pytest.fixture(scope="module", params=["unigram", "sentencepiece-bpe"])
def trained(request, texts):
    return Tokenizer.train(texts, 120, lowercase=True, kind=request.param)


def reference(tokenizer, text):
    """ALBERT's preprocess_text and encode_pieces, over the library's model."""
    text = " ".join(text.strip().split()).replace("``", '"').replace("''", '"')
    if not tokenizer.keep_accents:
        text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    text = text.lower() if tokenizer.lowercase else text
    model = sentencepiece.SentencePieceProcessor(model_proto=base64.b64decode(tokenizer.model))
    ids = []
    for piece in model.encode(text, out_type=str):
        if len(piece) > 1 and piece[-1] == "," and piece[-2].isdigit():
            parts = model.encode(piece[:-1].replace("▁", ""), out_type=str)
            if not piece.startswith("▁") and parts[0].startswith("▁"):
                parts = [parts[0][1:], *parts[1:]] if parts[0] != "▁" else parts[1:]
            ids += [model.piece_to_id(part) for part in [*parts, ","]]
        else:
            ids.append(model.piece_to_id(piece))
    return ids


ODD = st.text(max_size=30) | st.text("ab 12,.'`\t\u00a0\u3000\u200bÉé\u0301\u0323\u00a8Σ한京①²[MASK]", max_size=14)


@settings(max_examples=100, deadline=None)
@given(st.lists(ODD | st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join), max_size=5))
def test_the_ids_of_the_library_after_the_preprocessing_of_albert(trained, texts):
    expected = [reference(trained, text) for text in texts]
    assert trained.encode_batch(texts) == trained.encode_corpus(texts).rows() == expected


def test_a_comma_after_digits_is_a_piece_of_its_own(trained, texts):
    for text in ("2,000,", "it 1999,"):
        pieces = trained.tokens(text)
        assert pieces[-1] == ","
        assert "".join(pieces).replace("▁", " ").strip() == text


def test_the_rule_about_commas_has_work_to_do(texts):
    assert Tokenizer.train(texts, 200, lowercase=True, kind="sentencepiece-bpe")._commas


def test_cased_vocabularies_keep_accents(texts):
    cased = Tokenizer.train([*texts, "É " * 500], 200, lowercase=False, kind="unigram")
    assert cased.decode(cased.encode_batch(["the É ''"])[0]) == 'the É "'
    low = SentencePiece(cased.model, lowercase=True, keep_accents=True)
    assert low.decode(low.encode_batch(["THE café"])[0]) == "the café"
    assert len({cased.hash, low.hash, SentencePiece(cased.model, lowercase=True, keep_accents=False).hash}) == 3


def test_special_tokens_in_a_text_are_characters(trained):
    assert tuple(trained.vocabulary[:5]) == ALBERT
    ids = trained.encode_batch(["the [MASK] sat[CLS] [SEP] <pad>"])[0]
    assert not {0, 2, 3, 4} & set(ids)


def model_of(texts, **options):
    model = io.BytesIO()
    defaults = {"model_type": "unigram", "hard_vocab_limit": False, "vocab_size": 120, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, **{**defaults, **options}
    )
    return model.getvalue()


def test_a_mask_that_a_model_declares_as_a_word_is_one_no_more(texts, tmp_path):
    (tmp_path / "spiece.model").write_bytes(model_of(texts, user_defined_symbols=["[MASK]", "("]))
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.mask_id not in tokenizer.encode_batch(["the [MASK] sat"])[0]
    assert tokenizer.rows["("] in tokenizer.encode_batch(["cat(cat"])[0]
    assert tokenizer.encode_with_mask("the [MASK]")[-1] == tokenizer.mask_id


def test_special_tokens_that_a_model_lacks_are_new_rows(texts, tmp_path):
    (tmp_path / "any.model").write_bytes(model_of(texts))  # with <unk> <s> </s> of its own
    tokenizer = Tokenizer.load(tmp_path / "any.model")
    assert (tokenizer.specials.cls, tokenizer.specials.sep) == ("<s>", "</s>")
    assert tokenizer.vocabulary[-2:] == ["<pad>", "[MASK]"]
    assert tokenizer("the")["input_ids"][0] == tokenizer.cls_id == 1


def test_which_rows_begin_a_word(trained):
    begins = dict(zip(trained.vocabulary, trained.starts_word.tolist(), strict=True))
    assert all(begins[token] for token in ALBERT) and begins["▁the"]
    assert not any(begins[token] for token in begins if token not in ALBERT and token[0] != "▁")


def test_filling_in(trained):
    ids = trained.encode_with_mask("the [MASK] cat the [MASK].")
    parts = [trained.encode_batch([part])[0] for part in ("the", "cat the", ".")]
    assert parts[2][:1] == [trained.rows["▁"]]
    assert ids == [*parts[0], trained.mask_id, *parts[1], trained.mask_id, *parts[2][1:]]
    assert trained.fill("a [MASK].", trained.rows["▁the"]) == "a the."
    assert trained.fill("[MASK] cat", trained.rows["▁the"]) == "the cat"


def test_decode_leaves_out_the_marks_of_a_text(trained):
    assert trained.decode(trained("The cats", "don't")["input_ids"]) == "the cats don't"


def test_accents_without_end_are_taken_one_by_one(monkeypatch, trained):
    """In one go Python would put them in order, in quadratic time."""
    lengths = set()

    def normalize(form, text):
        lengths.add(len(text))
        return unicodedata.normalize(form, text)

    spiece._PLAIN.clear()
    monkeypatch.setattr("bertjax.data.spiece.normalize", normalize)
    assert trained.encode_batch(["a" + "\u0301\u0323" * 200_000]) == trained.encode_batch(["a"])
    assert lengths == {1}


def test_the_same_text_gives_the_same_files(tmp_path):
    code = (
        "import sys, random; from bertjax.data.tokenizer import Tokenizer; rng = random.Random(0)\n"
        "texts = [''.join(rng.choices('abcdeé 한국 ', k=60)) for _ in range(300)]\n"
        "for kind in ('unigram', 'sentencepiece-bpe'):\n"
        "    Tokenizer.train(texts, 200, lowercase=False, kind=kind).save(sys.argv[1] + '/' + kind)"
    )
    for name in ("1", "2"):
        (tmp_path / name).mkdir()
        environment = {**os.environ, "PYTHONHASHSEED": name}
        subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], env=environment, check=True)
    files = sorted(file.relative_to(tmp_path / "1") for file in (tmp_path / "1").rglob("*.*"))
    assert len(files) == 4
    for file in files:
        assert (tmp_path / "1" / file).read_bytes() == (tmp_path / "2" / file).read_bytes()


def test_save_load_json_and_pickle(tmp_path, trained):
    for number, options in enumerate([(True, False), (False, True), (True, True)]):
        tokenizer = SentencePiece(trained.model, lowercase=options[0], keep_accents=options[1])
        folder = tmp_path / str(number)
        tokenizer.save(folder)
        copies = [
            Tokenizer.load(folder),
            Tokenizer.load(folder / "spiece.model"),
            Tokenizer.from_json(json.loads(json.dumps(tokenizer.to_json()))),
            pickle.loads(pickle.dumps(tokenizer)),
        ]
        assert {copy.hash for copy in copies} == {tokenizer.hash}


@pytest.mark.parametrize("extra, lowercase", [("", True), ("The Them ", False)])
def test_casing_is_inferred_without_a_config(tmp_path, texts, extra, lowercase):
    (tmp_path / "spiece.model").write_bytes(model_of([extra + text.lower() for text in texts]))
    tokenizer = Tokenizer.load(tmp_path)
    assert (tokenizer.lowercase, tokenizer.keep_accents) == (lowercase, not lowercase)


def test_errors(tmp_path, texts, trained):
    for kind in ("unigram", "sentencepiece-bpe"):
        with pytest.raises(
            ConfigError, match=r"vocab_size=9 does not suit this corpus \(.*9 vs \d+.*\); give a larger"
        ):
            Tokenizer.train(texts, 9, lowercase=True, kind=kind)
    with pytest.raises(DataError, match="the corpus has no text"):
        Tokenizer.train([" "], 99, lowercase=True, kind="unigram")
    trained.save(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    config.write_text('{"tokenizer_class": "XLMRobertaTokenizer"}')
    with pytest.raises(DataError, match=r"of a XLMRobertaTokenizer; .* AlbertTokenizer's are known"):
        Tokenizer.load(tmp_path)
    config.unlink()
    for content in (b"x", base64.b64decode(trained.model)[:1000]):
        (tmp_path / "spiece.model").write_bytes(content)
        with pytest.raises(DataError, match=r"spiece\.model: not a SentencePiece model"):
            Tokenizer.load(tmp_path)


def test_every_program_cuts_a_text_alike_by_a_learnt_unigram(texts):
    tokenizer = Tokenizer.train(texts, 120, lowercase=True, kind="unigram")
    scores = {piece.piece: piece.score for piece in tokenizer.proto().pieces}
    assert len(set(scores.values())) > 20 and all(score * 256 == int(score * 256) for score in scores.values())
    assert tokenizer._commas and all(scores[tokenizer.vocabulary[row]] < -100 for row in tokenizer._commas)
    found = {row for ids in map(tokenizer._backend.encode, ["2,000, it 1999, 99,", *texts]) for row in ids}
    assert found.isdisjoint(tokenizer._commas)


def test_words_of_any_length(trained):
    for word in ("cat" * 500, "고양이" * 500):
        assert trained.decode(trained.encode_batch([word])[0]) == word
