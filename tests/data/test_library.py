import json
import pickle
import random

import pytest
import sentencepiece
import tokenizers
from sentencepiece import sentencepiece_model_pb2 as messages
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

from bertjax.data.encode import Encoder
from bertjax.data.library import LibraryTokenizer
from bertjax.data.specials import BERT, ROBERTA
from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import DataError

WORDS = [
    "the",
    "them",
    "cat",
    "cats",
    "playing",
    "Playing",
    "고양이",
    "고양이가",
    "나는",
    "학교에",
    "café",
    "don't",
    "1999,",
    "it,",
    "(so)",
    "①②",
    "ﬁne",
    "東京",
    "—",
]
ODD = ["", "  the   cats\t", "x" * 60, "\u3000é \u200b", "고양이", "🙂 the", "a <mask> b</s>[MASK] <s> <unk>[UNK]"]


@pytest.fixture(scope="module")
def texts():
    rng = random.Random(0)
    return [" ".join(rng.choices(WORDS, k=10)) for _ in range(200)]


def xlm_roberta(texts, folder):
    """Unigram over SentencePiece's own normal form, the special tokens first and the mask last."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_prefix=str(folder / "m"),
        vocab_size=90,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    proto = messages.ModelProto.FromString((folder / "m.model").read_bytes())
    pieces = [(piece.piece, piece.score) for piece in proto.pieces[3:]]
    first = [(name, 0.0) for name in ("<s>", "<pad>", "</s>", "<unk>")]
    made = tokenizers.Tokenizer(models.Unigram([*first, *pieces, ("<mask>", 0.0)], 3, False))
    steps = [normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap)]
    made.normalizer = normalizers.Sequence([*steps, normalizers.Replace(tokenizers.Regex(" {2,}"), " ")])
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    made.post_processor = processors.TemplateProcessing("<s> $A </s>", None, [("<s>", 0), ("</s>", 2)])
    made.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", tokenizers.AddedToken("<mask>", lstrip=True)])
    made.enable_padding(length=30)
    return made


def byte_bpe(texts, folder):
    """As ModernBERT's: NFC before byte-level BPE, BERT's special tokens added after the rest."""
    made = tokenizers.Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False))
    made.add_special_tokens([*BERT])
    return made


def wordpiece(texts, folder):
    """WordPiece between white space alone, after NFKC, no lower case."""
    made = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordPieceTrainer(vocab_size=150, special_tokens=[*BERT], show_progress=False)
    made.train_from_iterator(texts, trainer)
    return made


@pytest.fixture(scope="module", params=[xlm_roberta, byte_bpe, wordpiece])
def both(request, texts, tmp_path_factory):
    """A tokenizer.json as the library reads it, and as we do."""
    folder = tmp_path_factory.mktemp("library")
    request.param(texts, folder).save(str(folder / "tokenizer.json"))
    reference = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    reference.no_padding()
    return reference, Tokenizer.load(folder)


def test_the_ids_are_the_library_s(both, texts):
    reference, tokenizer = both
    assert isinstance(tokenizer, LibraryTokenizer)
    assert tokenizer.rows == reference.get_vocab()
    lines = [*texts, *ODD[:-1]]
    expected = [reference.encode(text, add_special_tokens=False).ids for text in lines]
    assert tokenizer.encode_batch(lines) == tokenizer.encode_corpus(lines).rows() == expected


def test_special_tokens_have_the_rows_of_the_file_and_no_text_has_them(both):
    reference, tokenizer = both
    names = ROBERTA if "<mask>" in tokenizer.rows else BERT
    assert tokenizer.specials == names
    assert tokenizer.mask_id == reference.token_to_id(names.mask) and tokenizer.pad_id == reference.token_to_id(
        names.pad
    )
    found = set(tokenizer.encode_batch(ODD[-1:])[0])
    assert found and found.isdisjoint({tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id})


def test_a_document_is_encoded_as_its_running_text(both):
    _, tokenizer = both
    lines = ["the cats playing", "고양이가 1999,", "(so) it, don't"]
    (encoded,) = Encoder(tokenizer, list)([("train", lines)])
    assert encoded.document.tokens.tolist() == tokenizer.encode_batch([" ".join(lines)])[0]
    starts = encoded.document.tokens[encoded.document.lengths.cumsum()[:-1]]
    assert tokenizer.starts_word[starts].all() and not tokenizer.starts_word.all()


def test_back_to_text(both):
    _, tokenizer = both
    assert tokenizer.decode(tokenizer("the cats 고양이가", "it")["input_ids"]).split() in (
        ["the", "cats", "고양이가", "it"],
        ["the", "cats", "고양이가it"],  # GPT-2's first word has no space
    )
    ids = tokenizer.encode_with_mask(f"the {tokenizer.mask_token} cats")
    assert ids.count(tokenizer.mask_id) == 1 and "cats" in tokenizer.decode(ids)


def test_its_travels(both, tmp_path):
    _, tokenizer = both
    tokenizer.save(tmp_path)
    copies = [Tokenizer.load(tmp_path), Tokenizer.from_json(json.loads(json.dumps(tokenizer.to_json())))]
    copies.append(pickle.loads(pickle.dumps(tokenizer)))
    assert {copy.hash for copy in copies} == {tokenizer.hash}
    assert copies[0].encode_batch(ODD) == copies[2].encode_batch(ODD) == tokenizer.encode_batch(ODD)


def test_unigram_files_that_are_damaged(texts, tmp_path):
    good = json.loads(xlm_roberta(texts, tmp_path).to_str())
    for change, message in [
        ({"vocab": [["<s>", 0.0], ["<s>", 0.0]]}, "model.vocab has a piece twice"),
        ({"vocab": [["<s>"]]}, r"not a list of \[piece, score\]"),
        ({"vocab": None}, "the vocabulary is empty"),
        ({"unk_id": 10**6}, "model.unk_id is 1000000, not that of a piece"),
    ]:
        added = [] if "vocab" in change else good["added_tokens"]
        file = {**good, "added_tokens": added, "model": {**good["model"], **change}}
        (tmp_path / "tokenizer.json").write_text(json.dumps(file))
        with pytest.raises(DataError, match=message):
            Tokenizer.load(tmp_path / "tokenizer.json")
