"""AutoTokenizer of an export whose vocabulary is SentencePiece's gives our ids, and we read from it what it was."""

import gzip
from dataclasses import replace
from pathlib import Path

import pytest
import sentencepiece
from helpers import TINY
from hf_directories import OBJECTIVES, parameters
from transformers import AutoTokenizer

from bertjax.data import corpus, tokenizer_json
from bertjax.data.spiece import SentencePiece
from bertjax.data.tokenizer import Tokenizer
from bertjax.hf.read import read
from bertjax.hf.write import write

SAMPLES = Path(__file__).parents[2] / "sample_data"
LINES = 4_000
HARD = [
    "",
    " ",
    "  two  spaces,  and\ta tab\u00a0\u3000and\u2028more ",
    "대한민국의 수도는 서울특별시이다. 2,000년 3월 1일,",
    "\u1112\u1161\u11ab\u1100\u116e\u11a8\u110b\u1165 in letters, 한국어 as it is",
    "Ünï çødé e\u0301a\u0308 Å ﬁ ﬀ ① ² ½ ™ ㎏ ｆｕｌｌ ﾊﾝｶｸ ﷺ",
    "🙂👍🏽 👩‍👩‍👧 🇰🇷 ❤️ ©️",
    "control \x00\x01\x1c\x7f\x85 characters, zero\u200bwidth\ufeff",
    "ΟΔΟΣ ΣΑΣ Σ",
    "don't stop--now... ``quoted'' $5,000! 1999, 10,000,000,",
    "क्षेत्र ภาษาไทย עִבְרִית العَرَبِيَّة 東京タワー",
    "x" * 150,
]
KOREAN = [
    "나는 어제 친구와 함께 영화를 보았다.",
    "대한민국의 수도는 서울특별시이며, 인구는 약 9,400,000명이다.",
    "오늘은 날씨가 맑고 바람이 시원하게 분다!",
    "그는 책을 읽다가 잠이 들었다.",
]


@pytest.fixture(scope="module")
def lines():
    texts = [gzip.decompress((SAMPLES / f"{name}.txt.gz").read_bytes()).decode() for name in ("novels", "messages")]
    found = [sentence for text in texts for line in text.split("\n") for sentence in corpus.sentences([line])]
    half = LINES // 2
    return [*found[:half], *found[-half:], *KOREAN * 25]


def exported(folder, tokenizer):
    model = replace(TINY, vocab_size=tokenizer.vocab_size)
    params = parameters(OBJECTIVES["BertModel"], model)
    write(folder, model=model, tokenizer=tokenizer, params=params, length=model.max_length, about={})
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize(("lowercase", "keep_accents"), [(True, False), (False, True), (True, True)])
def test_a_unigram(tmp_path, lines, lowercase, keep_accents):
    learnt = Tokenizer.train([*lines, *HARD], 2_000, lowercase=lowercase, kind="unigram")
    tokenizer = SentencePiece(learnt.model, lowercase=lowercase, keep_accents=keep_accents)
    theirs = exported(tmp_path, tokenizer)
    assert theirs.is_fast and theirs.model_max_length == TINY.max_length
    assert theirs(HARD, add_special_tokens=False)["input_ids"] == tokenizer.encode_batch(HARD)
    ours = tokenizer.encode_batch(lines)
    assert theirs(lines, add_special_tokens=False)["input_ids"] == ours
    for role, name in tokenizer.specials._asdict().items():
        assert getattr(theirs, f"{role}_token") == name and getattr(theirs, f"{role}_token_id") == tokenizer.rows[name]
    pairs = theirs(HARD[:5], HARD[5:10])
    for i in range(5):
        tokens, types = tokenizer.pair_ids(*tokenizer.encode_batch([HARD[i], HARD[5 + i]]))
        assert (pairs["input_ids"][i], pairs["token_type_ids"][i]) == (tokens.tolist(), types.tolist())
    marked = theirs("the [MASK] sat")["input_ids"]
    assert marked == [tokenizer.cls_id, *tokenizer.encode_with_mask("the [MASK] sat"), tokenizer.sep_id]
    assert read(tmp_path).tokenizer.hash == tokenizer.hash
    alone = tokenizer_json.read(tmp_path / "tokenizer.json")
    assert alone.encode_batch([*lines, *HARD]) == [*ours, *tokenizer.encode_batch(HARD)]
    again = exported(tmp_path / "again", alone)  # as of XLM-R and others that come as a tokenizer.json
    assert again(HARD)["input_ids"] == theirs(HARD)["input_ids"]


def test_a_unigram_that_another_program_learnt(tmp_path, lines):
    """Its scores are as they came, so that rounding decides between ways that are equally likely."""
    file = tmp_path / "any.model"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_prefix=str(file.with_suffix("")), vocab_size=1_000, minloglevel=2,
        hard_vocab_limit=False, user_defined_symbols=["(", ")", "–", "$"],
    )  # fmt: skip
    tokenizer = Tokenizer.load(file)
    ours, found = tokenizer.encode_batch(lines), exported(tmp_path, tokenizer)(lines, add_special_tokens=False)
    equal = [a == b for a, b in zip(ours, found["input_ids"], strict=True)]
    same = [sorted(a) == sorted(b) for a, b in zip(ours, found["input_ids"], strict=True)]
    assert sum(equal) > 0.998 * len(lines) and sum(same) > 0.999 * len(lines)
    assert read(tmp_path).tokenizer.hash == tokenizer.hash


def test_what_transformers_saves_of_it_is_read_with_the_same_ids(tmp_path, lines):
    tokenizer = Tokenizer.train(lines, 1_000, lowercase=True, kind="unigram")
    exported(tmp_path / "one", tokenizer).save_pretrained(tmp_path / "two")
    again = Tokenizer.load(tmp_path / "two")
    assert again.encode_batch(HARD) == tokenizer.encode_batch(HARD) and again.specials == tokenizer.specials
