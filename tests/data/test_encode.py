import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertjax.data.bpe import ByteBPE
from bertjax.data.encode import ENCODED_AT_ONCE, Encoder, lots
from bertjax.data.tokenizer import Tokenizer

DOCUMENT = ["The cat sat.", "\u201cIt is 1999.\u201d", "고양이가 앉았다.", "don't  stop", "(so it's)"]


@pytest.fixture(scope="module", params=["wordpiece", "bpe", "unigram", "sentencepiece-bpe"])
def tokenizer(request):
    texts = [*DOCUMENT, *(" ".join(DOCUMENT[i:] + DOCUMENT[:i]) for i in range(5))] * 20
    size = 300 if request.param == "bpe" else 90
    return Tokenizer.train(texts, size, lowercase=False, kind=request.param)


def encoded(tokenizer, *documents):
    lot = [("train", list(document)) for document in documents]
    return [item.document for item in Encoder(tokenizer, list)(lot)]


def test_the_ids_of_a_document_are_those_of_its_running_text(tokenizer):
    first, second = encoded(tokenizer, DOCUMENT, DOCUMENT[:2])
    assert first.tokens.tolist() == tokenizer.encode_batch([" ".join(DOCUMENT)])[0]
    assert second.tokens.tolist() == tokenizer.encode_batch([" ".join(DOCUMENT[:2])])[0]
    assert len(first.lengths) == 5 and first.lengths.sum() == len(first.tokens)


def test_every_sentence_but_the_first_begins_with_what_begins_a_word(tokenizer):
    (document,) = encoded(tokenizer, ["cat cat.", "cat cat.", "cat cat."])
    starts = np.cumsum(document.lengths) - document.lengths
    assert tokenizer.starts_word[document.tokens[starts[1:]]].all()
    assert tokenizer.decode(document.tokens[starts[1] :]).strip().replace(" .", ".") == "cat cat. cat cat."


def test_kinds_without_a_space_mark_of_their_own_take_each_sentence_alone(tokenizer):
    if not isinstance(tokenizer, ByteBPE):
        assert tokenizer.running(DOCUMENT) == DOCUMENT


SENTENCE = st.text("ab 1'st.\t\u00a0\x1c\x85\u3000한\u0301Σ", min_size=1, max_size=12).map(str.strip).filter(bool)


@settings(max_examples=200, deadline=None)
@given(sentences=st.lists(SENTENCE, min_size=1, max_size=5), prefix=st.booleans(), lowercase=st.booleans())
def test_byte_bpe_of_any_sentences(sentences, prefix, lowercase):
    bpe = ByteBPE(BPE.vocabulary, BPE.merges, lowercase=lowercase, prefix_space=prefix)
    (document,) = encoded(bpe, sentences)
    assert document.tokens.tolist() == bpe.encode_batch([" ".join(sentences)])[0]
    text = " ".join(sentences)
    assert bpe.decode(document.tokens).removeprefix(" " * prefix) == (text.lower() if lowercase else text)


BPE = Tokenizer.train(DOCUMENT * 20, 300, lowercase=False, kind="bpe")


def test_lots_are_bounded_runs_of_documents():
    documents = [("train", ["x" * 90_000]) for _ in range(7)]
    found = list(lots(documents))
    assert [len(lot) for lot in found] == [3, 3, 1]
    assert all(sum(len(line) for _, lines in lot for line in lines) >= ENCODED_AT_ONCE for lot in found[:-1])


def test_a_document_does_not_hold_its_lot(tokenizer):
    for document in encoded(tokenizer, DOCUMENT, DOCUMENT[:2]):
        assert document.tokens.base is None and document.lengths.base is None
