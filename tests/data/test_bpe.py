import json
import os
import pickle
import random
import subprocess
import sys

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from bertjax.data.bpe import ByteBPE
from bertjax.data.specials import ROBERTA
from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import ConfigError, DataError

TEXT = "the them then other cat cats 고양이 나는 naïve don't we're 1999 it, (so) <mask> —"
MERGES = ["Ġ t", "h e", "Ġt he", "a t", "Ġ s"]


@pytest.fixture(scope="module")
def texts():
    rng = random.Random(0)
    return [" ".join(rng.choices(TEXT.split(), k=12)) for _ in range(300)]


@pytest.fixture(scope="module")
def trained(texts):
    return Tokenizer.train(texts, 320, lowercase=False, kind="bpe")


@pytest.fixture
def gpt2(trained, tmp_path):
    """A vocabulary as GPT-2's: no special token but the last."""
    letters = trained.vocabulary[5 : 5 + 256]
    tokens = [*letters, *(merge.replace(" ", "") for merge in MERGES), "<|endoftext|>"]
    (tmp_path / "vocab.json").write_text(json.dumps({token: row for row, token in enumerate(tokens)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n")
    return tmp_path


def test_pieces_carry_the_space_before_them(gpt2):
    assert Tokenizer.load(gpt2).tokens("the the  sat\n") == ["t", "he", "Ġthe", "Ġ", "Ġs", "at", "Ċ"]


def test_special_tokens_are_new_rows_after_those_of_gpt2(gpt2):
    tokenizer = Tokenizer.load(gpt2)
    assert tokenizer.vocabulary[-6:] == ["<|endoftext|>", "<pad>", "<unk>", "<s>", "</s>", "<mask>"]
    ids = tokenizer("the", "cat")["input_ids"]
    assert [tokenizer.vocabulary[row] for row in ids] == ["<s>", "t", "he", "</s>", "c", "at", "</s>"]
    assert tokenizer.decode(ids) == "thecat"


def test_special_tokens_that_a_vocabulary_has_keep_their_rows(gpt2):
    rows = json.loads((gpt2 / "vocab.json").read_text())
    names = ["<s>", "<pad>", "</s>", "<unk>", *rows, "<mask>"]  # RoBERTa's order
    (gpt2 / "vocab.json").write_text(json.dumps({token: row for row, token in enumerate(names)}))
    tokenizer = Tokenizer.load(gpt2 / "vocab.json")
    assert tokenizer.vocabulary == names
    assert (tokenizer.cls_id, tokenizer.pad_id, tokenizer.sep_id, tokenizer.unk_id) == (0, 1, 2, 3)
    assert tokenizer.mask_id == len(names) - 1


def test_special_tokens_in_a_text_are_characters(trained, gpt2):
    for tokenizer in (trained, Tokenizer.load(gpt2)):
        ids = tokenizer.encode_batch(["a <mask> b</s><s> <pad><unk><|endoftext|>"])[0]
        assert max(map(len, (tokenizer.vocabulary[row] for row in ids))) < 5
        assert not {tokenizer.vocabulary[row] for row in ids} & {*ROBERTA, "<|endoftext|>"}


ODD = st.text(max_size=30) | st.text("ab 1'st\t\n\u00a0\u3000\x1c\x85\u200b한京\u0301<mask>", max_size=14)


@settings(max_examples=100, deadline=None)
@given(st.lists(ODD, max_size=6))
def test_the_ids_of_the_library_and_back(trained, texts):
    reference = tokenizers.ByteLevelBPETokenizer(
        trained.rows, [tuple(merge.split()) for merge in trained.merges], add_prefix_space=False
    )
    expected = [encoding.ids for encoding in reference.encode_batch(texts)]
    assert trained.encode_batch(texts) == trained.encode_corpus(texts).rows() == expected
    assert [trained.decode(ids) for ids in expected] == texts


def test_lower_case_and_a_space_before_the_first_word(trained):
    low = ByteBPE(trained.vocabulary, trained.merges, lowercase=True, prefix_space=True)
    assert low.tokens("The CATS") == trained.tokens(" the cats")
    assert low.encode_corpus(["The CATS", "\tx", ""]).rows() == low.encode_batch(["The CATS", "\tx", ""])
    assert low.hash != trained.hash


def test_trained(trained, texts):
    assert tuple(trained.vocabulary[:5]) == ROBERTA
    assert 300 < trained.vocab_size <= 320
    assert "Ġthe" in trained.vocabulary
    assert "Ġ고양이" in {trained.decode([row]).replace(" ", "Ġ") for row in range(trained.vocab_size)}
    ids = trained.encode_batch(texts)
    assert sum(map(len, ids)) < 0.5 * sum(len(text.encode()) for text in texts)
    begins = trained.starts_word
    assert begins[:5].all() and begins[trained.rows["Ġthe"]] and not begins[trained.rows["t"]]
    assert begins.dtype == np.bool_ and begins.shape == (trained.vocab_size,)


def test_the_same_text_gives_the_same_files(tmp_path, trained):
    code = (
        "import sys, random; from bertjax.data.tokenizer import Tokenizer; rng = random.Random(0)\n"
        "texts = [''.join(rng.choices('abcdeé 한국 ', k=60)) for _ in range(300)]\n"
        "Tokenizer.train(texts, 400, lowercase=False, kind='bpe').save(sys.argv[1])"
    )
    for name in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": name, "RAYON_NUM_THREADS": name}
        subprocess.run([sys.executable, "-c", code, tmp_path / name], env=environment, check=True)
    for file in (tmp_path / "1").iterdir():
        assert file.read_bytes() == (tmp_path / "2" / file.name).read_bytes()


def test_filling_in(trained):
    ids = trained.encode_with_mask("the <mask> sat<mask>.")
    parts = [trained.encode_batch([part])[0] for part in ("the", " sat", ".")]
    assert ids == [*parts[0], trained.mask_id, *parts[1], trained.mask_id, *parts[2]]
    assert trained.fill("a <mask> sat", trained.rows["Ġthe"]) == "a the sat"
    assert trained.fill("a <mask> sat", trained.rows["t"]) == "at sat"
    assert trained.fill("<mask> sat", trained.rows["Ġthe"]) == "the sat"


def test_save_load_json_and_pickle(tmp_path, trained):
    low = ByteBPE(trained.vocabulary, trained.merges, lowercase=True, prefix_space=True)
    for number, tokenizer in enumerate((trained, low)):
        folder = tmp_path / str(number)
        tokenizer.save(folder)
        copies = [
            Tokenizer.load(folder),
            Tokenizer.load(folder / "merges.txt"),
            Tokenizer.from_json(json.loads(json.dumps(tokenizer.to_json()))),
            pickle.loads(pickle.dumps(tokenizer)),
        ]
        assert {copy.hash for copy in copies} == {tokenizer.hash}
        assert {copy.tokens("The cat")[0] for copy in copies} == {tokenizer.tokens("The cat")[0]}


def test_a_small_vocabulary_and_no_text():
    with pytest.raises(ConfigError, match="vocab_size=260 is too small for byte-level BPE; at least 261"):
        Tokenizer.train(["a"], 260, lowercase=False, kind="bpe")
    with pytest.raises(DataError, match="the corpus has no text"):
        Tokenizer.train(["", " "], 300, lowercase=False, kind="bpe")


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("vocab.json", b"{", r"vocab\.json: not a JSON object"),
        ("vocab.json", b"[1]", r"vocab\.json: not a JSON object \(a list\)"),
        ("vocab.json", b"[" * 100_000, r"vocab\.json: not a JSON object"),
        ("vocab.json", b"{}", r"vocab\.json: the vocabulary is empty"),
        ("vocab.json", b'{"a": 0, "b": 4000000000}', "'b' has id 4000000000; 2 tokens have the ids 0 to 1"),
        ("vocab.json", b'{"a": 0, "b": true}', "'b' has id True"),
        ("vocab.json", b'{"a": 0, "b": 0}', "'b' and 'a' have the same id 0"),
        ("vocab.json", b'{"\\u4eac": 0}', "none of GPT-2's letters for bytes"),
        ("merges.txt", b"#version: 0.2\na b c\n", r"merges\.txt:2: 'a b c' is not two pieces"),
        ("merges.txt", b"#version: 0.2\nh e\n\xff\n", r"merges\.txt:3: not UTF-8"),
        ("merges.txt", b"h e\nhe x\n", r"merges\.txt: merge 2, 'he x': 'hex' is not in the vocabulary"),
    ],
)
def test_damaged_files(gpt2, name, content, message):
    (gpt2 / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        Tokenizer.load(gpt2)


def test_merges_that_are_not_there(gpt2):
    (gpt2 / "merges.txt").unlink()
    with pytest.raises(DataError, match=r"merges\.txt: no such vocabulary; give a merges\.txt beside the vocab\.json"):
        Tokenizer.load(gpt2)


def test_words_of_any_length(trained):
    for word in ("cat" * 500, "고양이" * 500):
        assert trained.decode(trained.encode_batch([word])[0]) == word


def test_pairs_of_roberta_have_two_separators(tmp_path):
    one, two = (ByteBPE([*ROBERTA, "Ġ", "a"], [], separators=count) for count in (1, 2))
    assert one.pair_ids([6], [6, 6])[0].tolist() == [2, 6, 3, 6, 6, 3]
    tokens, types = two.pair_ids([6], [6, 6])
    assert tokens.tolist() == [2, 6, 3, 3, 6, 6, 3] and types.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert two.pair_ids([6, 6, 6], [6], max_length=6)[0].tolist() == [2, 6, 3, 3, 6, 3]
    assert two.pair_ids([6])[0].tolist() == [2, 6, 3]
    assert one.hash == ByteBPE([*ROBERTA, "Ġ", "a"], []).hash != two.hash  # of data prepared before there were two
    two.save(tmp_path)
    assert Tokenizer.load(tmp_path).hash == Tokenizer.from_json(two.to_json()).hash == two.hash
