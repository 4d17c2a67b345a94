"""Where the pieces of a text lie in it."""

import pytest
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

from bertjax.data.bpe import ByteBPE
from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import ConfigError

TEXTS = ["Un 3ï-style İstanbul Σας 😀 x", "  two  spaces \ud800 x", "", " "]


KINDS = ["wordpiece", "bpe", "bpe with a space before the first word", "tokenizer.json"]


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request, tmp_path_factory):
    kind, *more = request.param.split(" ", 1)
    if kind == "tokenizer.json":
        made = tokenizers.Tokenizer(models.Unigram([("<unk>", 0.0), ("▁", -1.0), *((x, -2.0) for x in "3xspace")], 0))
        made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        file = tmp_path_factory.mktemp("unigram") / kind
        made.save(str(file))
        return Tokenizer.load(file)
    made = Tokenizer.train([text.replace("\ud800", "?") for text in TEXTS] * 3, 320, lowercase=True, kind=kind)
    return ByteBPE(made.vocabulary, made.merges, lowercase=True, prefix_space=True) if more else made


def test_ids_are_those_without_offsets(tokenizer):
    for text, (ids, places) in zip(TEXTS, tokenizer.encode_with_offsets(TEXTS), strict=True):
        assert ids == tokenizer.encode_batch([text])[0]
        assert places.shape == (len(ids), 2) and places.dtype == "int32"


def test_places_are_code_points_of_the_text_as_it_was_given(tokenizer):
    for text, (_, places) in zip(TEXTS, tokenizer.encode_with_offsets(TEXTS), strict=True):
        pieces = [text[begin:end] for begin, end in places]
        assert all(piece == piece.strip() for piece in pieces)
        covered = {index for begin, end in places for index in range(begin, end)}
        assert covered == {index for index, letter in enumerate(text) if not letter.isspace()}
        assert (places[1:, 0] >= places[:-1, 0]).all()


def test_an_accent_that_is_dropped_belongs_to_its_letter():
    tokenizer = Tokenizer.train(["cafe bar"] * 3, 64, lowercase=True)
    ((ids, places),) = tokenizer.encode_with_offsets(["cafe\u0301 bar"])
    assert len(ids) == len(places) == len(tokenizer.tokens("cafe bar"))
    assert (places[-1, 1], "cafe\u0301 bar"[places[0, 0] :][:5]) == (9, "cafe\u0301")
    assert 5 in places[:, 1] and 4 not in places[:, 1]


def test_kinds_without_offsets_say_which_have_them():
    tokenizer = Tokenizer.train(["the cat sat on the mat"] * 9, 20, lowercase=True, kind="unigram")
    with pytest.raises(ConfigError, match=r"a sentencepiece vocabulary does not say .* WordPiece or byte-level BPE"):
        tokenizer.encode_with_offsets(["the cat"])
