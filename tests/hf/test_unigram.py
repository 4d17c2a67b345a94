"""A SentencePiece unigram model as tokenizer.json: the library it is for gives our ids, whatever the text."""

import base64
import json
import random
import re
import unicodedata

import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bertjax.data import tokenizer_json
from bertjax.data.library import LibraryTokenizer
from bertjax.data.spiece import SPACE, SentencePiece, prepared
from bertjax.data.tokenizer import Tokenizer
from bertjax.hf import tokenizer_files, unigram

TEXT = "the them then other cat cats 고양이가 나는 café don't 1999, 2,000, 99 '' `` it, (so) the. ΟΔΟΣ — ﬁne ①② 東京"
WORDS = TEXT.split()
LINES = [
    "",
    " ",
    "the cats, then  the\tother\n",
    "고양이가 나는 cat\u3000— 東京",
    "고양이가".encode().decode(),
    "\u1100\u1169\u110b\u1163\u11bc\u110b\u1175 the",  # Hangul in letters
    "cafe\u0301 café CAFÉ Ünï",
    "the 🙂👍🏽 cat 👩‍👩‍👧 🇰🇷 ❤️",
    "a\x00b\x01c\x1cthe\x85d\u200be\u200dcat\ufeff",
    "ΟΔΟΣ ΟΔΟΣ, Σ 'Σ' ΣΑΣ 한Σ",
    "it 1999, 2,000, 99,000,",
    "ｆｕｌｌ ﬁne ①② ½ ㎏ ™ ﷺ",
    "`` the '' ''' ´´ ¨ a",
    "क्षि กำ ไทย",
    "x" * 150,
]


@pytest.fixture(scope="module")
def texts():
    rng = random.Random(0)
    return [" ".join(rng.choices(WORDS, k=12)) for _ in range(400)]


@pytest.fixture(scope="module", params=[(True, False), (False, True), (True, True)], ids=str)
def tokenizer(request, texts):
    lowercase, keep_accents = request.param
    made = Tokenizer.train([*texts, *LINES * 3], 260, lowercase=lowercase, kind="unigram")
    return SentencePiece(made.model, lowercase=lowercase, keep_accents=keep_accents)


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    tokenizer_files.write(tokenizer, folder, 64)
    return folder


@pytest.fixture(scope="module")
def theirs(folder):
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


def test_the_library_gives_our_ids(tokenizer, theirs, texts):
    for lines in (texts, LINES):
        assert [theirs.encode(line, add_special_tokens=False).ids for line in lines] == tokenizer.encode_batch(lines)
    first, second = tokenizer.encode_batch(LINES[2:4])
    tokens, types = tokenizer.pair_ids(first, second)
    pair = theirs.encode(*LINES[2:4])
    assert (pair.ids, pair.type_ids) == (tokens.tolist(), types.tolist())
    assert theirs.encode("the[SEP]").ids[-2:] == [tokenizer.sep_id] * 2  # to them a special token, wherever it stands


ODD = st.text(st.characters(codec="utf-8", exclude_characters="Σ"), max_size=30) | st.text(
    "ab 12,.'`\t\u00a0\u3000\u200bÉé\u0301\u0323\u00a8한\u1112\u1161\u11ab京①²", max_size=14
)


@pytest.fixture(scope="module")
def normalized(tokenizer, theirs):
    """normalized(text) -> what we make of it, what they make of it."""
    normalizer = theirs.normalizer

    def both(text):
        plain = prepared(text, lowercase=tokenizer.lowercase, keep_accents=tokenizer.keep_accents)
        return tokenizer.normalized(plain).removeprefix(SPACE).replace(SPACE, " "), normalizer.normalize_str(text)

    return both


@settings(max_examples=100, deadline=None, derandomize=True)
@given(ODD | st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join))
@example("\u1112\u1161\u11ab ﷺ")
def test_they_do_to_a_text_what_we_do(tokenizer, normalized, text):
    if tokenizer.keep_accents:  # as a text has them: one, on a letter of the alphabet
        text = re.sub(r"[\u0300-\u036f]+", "e\u0301", unicodedata.normalize("NFC", text))
    ours, theirs = normalized(text)
    assert ours == theirs


def test_we_read_the_same_tokenizer_from_each_of_its_files(tokenizer, folder, texts):
    assert Tokenizer.load(folder).hash == tokenizer.hash == tokenizer_files.of_spiece(folder).hash
    alone = tokenizer_json.read(folder / "tokenizer.json")
    assert isinstance(alone, LibraryTokenizer) and alone.specials == tokenizer.specials
    for lines in (texts, [*LINES, "the [MASK] sat[CLS] [SEP] <pad>"]):
        assert alone.encode_batch(lines) == tokenizer.encode_batch(lines)


def test_what_was_changed_since_is_not_the_model_s(tokenizer, folder, tmp_path):
    tokenizer_files.write(tokenizer, tmp_path, 64)
    data = json.loads((folder / "tokenizer.json").read_text())
    data["model"]["vocab"][-1][1] -= 1
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    assert tokenizer_files.of_spiece(tmp_path) is None
    (tmp_path / "spiece.model").unlink()
    assert tokenizer_files.of_spiece(tmp_path) is None


def changed(tokenizer, change):
    """The tokenizer of a model in which `change` has changed something."""
    proto = tokenizer.proto()
    change(proto)
    model = base64.b64encode(proto.SerializeToString()).decode()
    return SentencePiece(model, lowercase=tokenizer.lowercase, keep_accents=tokenizer.keep_accents)


def library(tokenizer):
    return tokenizers.Tokenizer.from_str(json.dumps(tokenizer_files.described(tokenizer)))


def without_charsmap(proto):
    proto.normalizer_spec.precompiled_charsmap = b""


def with_spaces(proto):
    proto.normalizer_spec.remove_extra_whitespaces = False


def with_declared_words(proto):
    """They are taken for the bytes they have: "▁c" + "ats" before "▁ca" + "ts", and both before "▁cats"."""
    score = {piece.piece: piece.score for piece in proto.pieces}["▁cats"]
    for piece, text in zip((p for p in proto.pieces if p.piece in ("(", ")")), ("ats", "ts"), strict=True):
        piece.piece, piece.type, piece.score = text, piece.USER_DEFINED, 0.0
    proto.pieces.add(piece="▁c", score=score + 0.05)
    proto.pieces.add(piece="▁ca", score=score + 0.10)


def with_pieces_over_words(proto):
    proto.pieces.add(piece="▁the▁cat", score=-1.0)


@pytest.mark.parametrize("change", [without_charsmap, with_spaces, with_declared_words, with_pieces_over_words])
def test_other_models_than_ours(tokenizer, texts, change):
    other = changed(tokenizer, change)
    theirs = library(other)
    lines = [*texts, *LINES[:5], "the cat the cat", "the cats ﬁne", "the \u200b\u200b cat"]
    assert [theirs.encode(line, add_special_tokens=False).ids for line in lines] == other.encode_batch(lines)
    assert other.encode_batch(lines) != tokenizer.encode_batch(lines)


def suffixes(proto):
    proto.trainer_spec.treat_whitespace_as_suffix = True


def without_prefix(proto):
    proto.normalizer_spec.add_dummy_prefix = False


def as_bytes(proto):
    proto.trainer_spec.byte_fallback = True
    for number in range(256):
        proto.pieces.add(piece=f"<0x{number:02X}>", type=proto.pieces[0].BYTE)


@pytest.mark.parametrize(
    ("change", "reason"), [(suffixes, "not every word"), (without_prefix, "not every"), (as_bytes, "bytes")]
)
def test_what_no_tokenizer_json_says(tokenizer, change, reason, tmp_path):
    other = changed(tokenizer, change)
    assert re.search(reason, unigram.why_not(other)) and tokenizer_files.described(other) is None
    tokenizer_files.write(other, tmp_path, 64)
    assert not (tmp_path / "tokenizer.json").exists() and Tokenizer.load(tmp_path).hash == other.hash
