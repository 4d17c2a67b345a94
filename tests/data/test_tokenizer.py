import itertools
import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertjax.data.tokenizer import Tokenizer, shares
from bertjax.data.wordpiece import SPECIALS, WordPiece
from bertjax.errors import ConfigError, DataError

PIECES = "what 2015 nfl team one the af ##c play ##off ? who - un ##aff ##able [ mask ] ! sat cafe ##s 東 京 ##京 a"
VOCABULARY = [*SPECIALS, *PIECES.split()]


@pytest.fixture(scope="module")
def small():
    return WordPiece(VOCABULARY, lowercase=True)


@pytest.mark.parametrize(
    "text, pieces",
    [  # the first two are rows of reference output over SQuAD questions, with this vocabulary's pieces
        ("What 2015 NFL team one the AFC playoff?", "what 2015 nfl team one the af ##c play ##off ?"),
        ("Who? The playoff-team!", "who ? the play ##off - team !"),
        ("unaffable  Cafés\tthe\u00a0team", "un ##aff ##able cafe ##s the team"),
        ("unknownword sat", "[UNK] sat"),
        ("東京sat", "東 京 sat"),
        ("the [MASK] sat", "the [ mask ] sat"),
        ("a\u200bcafe\x00s \ufeffsat", "[UNK] sat"),
        ("x" * 201 + " a" + "##c", "[UNK] a [UNK] [UNK] [UNK]"),
    ],
)
def test_pieces(small, text, pieces):
    assert small.tokens(text) == pieces.split()
    assert small.encode_corpus([text]).rows() == small.encode_batch([text])


def test_a_sigma_that_ends_a_word():
    tokenizer = WordPiece([*SPECIALS, "σας", "σασ", "."], lowercase=True)
    for rows in (tokenizer.encode_batch(["ΣΑΣ, ΣΑΣ.ΣΑΣ"]), tokenizer.encode_corpus(["ΣΑΣ, ΣΑΣ.ΣΑΣ"]).rows()):
        ids = rows[0]
        assert [tokenizer.vocabulary[row] for row in ids] == ["σας", "[UNK]", "σασ", ".", "σας"]
    assert "ος" in Tokenizer.train(["ΛΟΓΟΣ ος"] * 9, 64, lowercase=True).vocabulary


def test_words_of_up_to_200_letters_are_cut():
    tokenizer = WordPiece([*SPECIALS, "x", "##x"], lowercase=True)
    assert [len(ids) for ids in tokenizer.encode_batch(["x" * 200, "x" * 201])] == [200, 1]
    assert tokenizer.encode_corpus(["x" * 200, "x" * 201]).lengths.tolist() == [200, 1]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.text(max_size=40) | st.text("a=-.[]\u0301\u0338\u200b 한京MASKΣ.Α\t\x1c\x85\u2028", max_size=12), max_size=8
    )
)
@pytest.mark.parametrize("lowercase", [True, False])
def test_the_word_cache_changes_nothing(lowercase, texts):
    tokenizer = WordPiece(
        [*VOCABULARY, "=", ".", "\u0338", "=\u0338", "##\u0338", "M", "##A", "σ", "ς", "##ς"], lowercase=lowercase
    )
    for _ in range(2):  # the second time all words are known
        found = tokenizer.encode_corpus(texts)
        assert found.rows() == tokenizer.encode_batch(texts)
        assert found.words.tolist() == [len(text.split()) for text in texts]


@pytest.mark.parametrize("bound, most", [("CACHED_WORDS", 20), ("CACHED_CHARACTERS", 11)])
def test_the_word_cache_is_bounded(small, monkeypatch, bound, most):
    monkeypatch.setattr(f"bertjax.data.word_cache.{bound}", 10)
    for start in range(0, 100, 10):
        text = " ".join(f"w{i}" for i in range(start, start + 9)) + " " + "long" * 20 + " the"
        assert small.encode_corpus([text]).rows() == small.encode_batch([text])
        assert len(small._known) <= most


def test_call_returns_padded_int32(small):
    out = small(["the team", "sat"], ["who?", "one"], max_length=7)
    assert {name: array.dtype for name, array in out.items()} == dict.fromkeys(out, np.dtype(np.int32))
    assert out["attention_mask"].tolist() == [[1] * 7, [1, 1, 1, 1, 1, 0, 0]]
    assert out["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 0, 0]]
    ids = out["input_ids"]
    assert [small.vocabulary[i] for i in ids[0]] == ["[CLS]", "the", "team", "[SEP]", "who", "?", "[SEP]"]
    assert (ids[1, 5:] == small.pad_id).all()
    single = small("the team")
    assert single["input_ids"].shape == (4,)
    assert small([])["input_ids"].shape == (0, 0)
    with pytest.raises(DataError, match="2 texts but 1 pairs"):
        small(["a", "b"], ["c"])


def test_shares_take_from_the_longer_one_at_a_time():
    for a, b, room in itertools.product(range(8), range(8), range(1, 16)):
        x, y = a, b
        while x + y > room:
            x, y = (x - 1, y) if x > y else (x, y - 1)
        assert shares(a, b, room) == (x, y)


def test_pair_ids_truncate_from_the_end(small):
    ids, types = small.pair_ids([10, 11, 12, 13, 14], [20, 21], 8)
    assert ids.tolist() == [small.cls_id, 10, 11, 12, small.sep_id, 20, 21, small.sep_id]
    assert types.tolist() == [0] * 5 + [1] * 3
    ids, types = small.pair_ids([10, 11, 12], None, 4)
    assert (ids.tolist(), types.tolist()) == ([small.cls_id, 10, 11, small.sep_id], [0] * 4)
    with pytest.raises(ConfigError, match="max_length=3"):
        small.pair_ids([1], [2], 3)


def test_mask_is_meant_only_where_asked(small):
    assert small.mask_id not in small.encode_batch(["[MASK]"])[0]
    expected = [VOCABULARY.index(token) for token in ("the", "[MASK]", "sat", "[MASK]")]
    assert small.encode_with_mask("the [MASK] sat[MASK]") == expected
    assert small.fill("the [MASK] sat", VOCABULARY.index("team")) == "the team sat"


def test_which_rows_begin_a_word(small):
    begins = dict(zip(small.vocabulary, small.starts_word.tolist(), strict=True))
    assert small.starts_word.dtype == bool and len(begins) == small.vocab_size
    assert all(begins[token] for token in [*SPECIALS, "play", "?", "東"])
    assert not any(begins[token] for token in begins if token.startswith("##"))


def test_the_hash_of_older_prepared_corpora_stays(small):
    assert small.hash == "edef75dbfc426795591ebafca6e5e1e5a88b417fe93727b062fe216f4912bff0"


def test_decode(small):
    assert small.decode(small("unaffable cafes!", "who")["input_ids"]) == "unaffable cafes ! who"


def test_lone_surrogates_do_not_stop_it(small):
    assert small.tokens("sat \ud800 sat")[0] == "sat"


def test_train(tokenizer, documents):
    assert tokenizer.vocabulary[:5] == list(SPECIALS)
    assert tokenizer.vocab_size <= 120
    sentence = documents[0][0]
    assert tokenizer.unk_id not in tokenizer.encode_batch([sentence])[0]
    assert tokenizer.decode(tokenizer.encode_batch([sentence])[0]).replace(" .", ".") == sentence


def test_korean_is_learnt_cased_and_uncased():
    texts = ["나는 학교에 간다.", "너는 학교에 갔다."] * 5
    for lowercase in (True, False):
        tokenizer = Tokenizer.train(texts, 100, lowercase=lowercase)
        assert tokenizer.unk_id not in tokenizer.encode_batch(texts[:1])[0]


def test_save_load_json_and_pickle(tmp_path, small):
    small.save(tmp_path / "t")
    cased = WordPiece([*SPECIALS, "The"], lowercase=False)
    assert cased.hash != WordPiece([*SPECIALS, "The"], lowercase=True).hash
    copies = [
        Tokenizer.load(tmp_path / "t"),
        Tokenizer.load(tmp_path / "t" / "vocab.txt"),
        Tokenizer.from_json(json.loads(json.dumps(small.to_json()))),
        pickle.loads(pickle.dumps(small)),
    ]
    assert {copy.hash for copy in copies} == {small.hash}
    assert {copy.lowercase for copy in copies} == {True}


@pytest.mark.parametrize("extra, lowercase", [("The", False), ("the", True), ("[unused1A]", True), ("ᴬ", True)])
def test_casing_is_inferred_without_a_config(tmp_path, extra, lowercase):
    (tmp_path / "vocab.txt").write_text("\r\n".join([*SPECIALS, extra]))
    assert Tokenizer.load(tmp_path).lowercase is lowercase


@pytest.mark.parametrize(
    "content, message",
    [
        (b"[PAD]\n[UNK]\n[PAD]\n", r"vocab\.txt:3: '\[PAD\]' stands on line 1 already"),
        (b"[PAD]\n\nx\n", r"vocab\.txt:2: empty line"),
        (b"", r"vocab\.txt:1: empty line"),
        (b"[PAD]\n\xff\n", r"vocab\.txt:2: not UTF-8"),
        (b"[PAD]\n[UNK]\n[CLS]\nx\n", r"vocab\.txt:4: ends without \[SEP\] \[MASK\]"),
    ],
)
def test_damaged_vocabularies(tmp_path, content, message):
    (tmp_path / "vocab.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        Tokenizer.load(tmp_path)


def test_missing_vocabulary_and_damaged_config(tmp_path, small):
    with pytest.raises(DataError, match="no such vocabulary"):
        Tokenizer.load(tmp_path)
    small.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(DataError, match=r"tokenizer_config\.json: not a JSON object"):
        Tokenizer.load(tmp_path)
