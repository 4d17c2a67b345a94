"""Hostile vocabularies: one message that names the file, at once."""

import json
import time

import pytest
from targets import BYTES, MERGES, VOCABULARY, tokenizer_files

from bertjax.data import vocabulary_files
from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import DataError

WORDPIECE, BPE, UNIGRAM, OTHER, _ = tokenizer_files()
ROWS = {token: row for row, token in enumerate(BYTES)}


def changed(file, **parts):
    """A tokenizer.json with other parts; a dict is merged into the part."""
    both = {name: {**(file[name] or {}), **part} if isinstance(part, dict) else part for name, part in parts.items()}
    return json.dumps({**file, **both}).encode()


def vocab(file, **rows):
    return changed(file, model={"vocab": {**file["model"]["vocab"], **rows}})


def added(*tokens):
    return changed(WORDPIECE, added_tokens=list(tokens))


def replaced(pattern, content, times=1):
    step = {"type": "Replace", "pattern": pattern, "content": content}
    return changed(OTHER, normalizer={"type": "Sequence", "normalizers": [step] * times})


def sequence(step):
    return {"type": "Sequence", "pretokenizers": [step]}


EVIL = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
JSON_FILES = {
    "a huge id": (vocab(WORDPIECE, x=4_000_000_000), "'x' has id 4000000000; 14 tokens have the ids 0 to 13"),
    "2^63": (vocab(BPE, the=1 << 63), "has id 9223372036854775808"),
    "an id below 0": (vocab(WORDPIECE, x=-1), "'x' has id -1"),
    "no number": (vocab(WORDPIECE, x="3"), "'x' has id '3'"),
    "a truth value": (vocab(WORDPIECE, x=True), "'x' has id True"),
    "the same id": (vocab(WORDPIECE, x=5), "'x' and 'the' have the same id 5"),
    "a token twice": (changed(WORDPIECE).replace(b'"the": 5', b'"the": 5, "the": 5'), "the key 'the' stands twice"),
    "half a surrogate": (vocab(WORDPIECE, **{"\ud800": 12}), "half a pair of surrogates"),
    "an added id that clashes": (added({"id": 5, "content": "new", "special": True}), "has id 5; 15 tokens|same id 5"),
    "an added token of another id": (added({"id": 9, "content": "the", "special": True}), "added token 'the' has id 9"),
    "a huge added id": (added({"id": 1 << 40, "content": "new", "special": True}), "'new' has id 1099511627776"),
    "an added token that is looked for": (
        added({"id": 14, "content": "new", "special": False}),
        "is looked for in texts",
    ),
    "a catastrophic regex": (changed(WORDPIECE, pre_tokenizer=EVIL), "pre_tokenizer has a 'Split'"),
    "one deep inside": (
        changed(
            WORDPIECE,
            pre_tokenizer={"type": "Sequence", "pretokenizers": [{"type": "Sequence", "pretokenizers": [EVIL]}]},
        ),
        "pre_tokenizer has a 'Split'",
    ),
    "a regex in the normalizer": (replaced({"Regex": "(a+)+$"}, "b"), "normalizer replaces"),
    "texts that grow": (replaced({"String": "a"}, "aa", 30), "normalizer makes texts longer by 30 of its parts"),
    "a text for every letter": (replaced({"String": "a"}, "b" * 1_000_000), "some by 1,000,000 characters"),
    "a beginning": (changed(OTHER, normalizer={"type": "Prepend", "prepend": "x" * 99}), "some by 99 characters"),
    "no unknown": (changed(UNIGRAM, model={"unk_id": None}), "model.unk_id is None"),
    "an unknown beyond": (changed(UNIGRAM, model={"unk_id": 1 << 40}), "model.unk_id is 1099511627776"),
    "no pieces": (changed(UNIGRAM, model={"vocab": None}), "model.unk_id is 0, not that of a piece"),
    "a number of pieces": (changed(UNIGRAM, model={"vocab": 3}), r"model.vocab is not a list of \[piece, score\]"),
    "no scores": (changed(UNIGRAM, model={"vocab": [["<unk>", "x"]]}), "the tokenizers library cannot read it"),
    "a map that is none": (
        changed(UNIGRAM, normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
        "the tokenizers library cannot read it",
    ),
    "code": (changed(WORDPIECE, pre_tokenizer={"type": "Custom", "code": "import os"}), "pre_tokenizer has a 'Custom'"),
    "brackets": (b"[" * 100_000, "not a JSON object"),
}
TEXTS = {
    "a token twice": ([*VOCABULARY, "the"], r"vocab.txt:15: 'the' stands on line 6 already"),
    "an empty line": ([*VOCABULARY[:7], "", *VOCABULARY[7:]], "vocab.txt:8: empty line"),
    "blanks": ([*VOCABULARY, "\u3000"], "vocab.txt:15: empty line"),
    "no mask": (VOCABULARY[:4], r"vocab.txt:4: ends without \[MASK\]"),
}


def refused(path, message):
    began = time.process_time()
    with pytest.raises(DataError, match=message) as caught:
        Tokenizer.load(path)
    assert time.process_time() - began < 1
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", JSON_FILES)
def test_a_hostile_tokenizer_json(tmp_path, name):
    content, message = JSON_FILES[name]
    (tmp_path / "tokenizer.json").write_bytes(content)
    refused(tmp_path / "tokenizer.json", message)


@pytest.mark.parametrize("name", TEXTS)
def test_a_hostile_vocab_txt(tmp_path, name):
    tokens, message = TEXTS[name]
    (tmp_path / "vocab.txt").write_text("\n".join(tokens) + "\n")
    refused(tmp_path / "vocab.txt", message)


@pytest.mark.parametrize(
    ("merges", "message"),
    [
        ([*MERGES, "q qq"], "merge 4, 'q qq': 'qq+' is not in the vocabulary"),
        (["t h x"], "merges.txt:1: 't h x' is not two pieces"),
        (["t\0 h"], "is not in the vocabulary"),
    ],
)
def test_hostile_merges(tmp_path, merges, message):
    (tmp_path / "vocab.json").write_text(json.dumps(ROWS))
    (tmp_path / "merges.txt").write_text("\n".join(merges))
    with pytest.raises(DataError, match=message):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("name", ["vocab.txt", "vocab.json", "tokenizer.json", "spiece.model", "tokenizer_config.json"])
def test_a_file_over_the_cap_is_not_read(tmp_path, name):
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY))
    with (tmp_path / name).open("wb") as file:
        file.truncate(vocabulary_files.MAX_BYTES + 1)  # takes no room on the disk
    target = tmp_path / ("vocab.txt" if name == "tokenizer_config.json" else name)
    with pytest.raises(DataError, match=rf"{name}: over {4 if name == 'tokenizer_config.json' else 64} MB"):
        Tokenizer.load(target)


def test_what_published_files_have_is_taken(tmp_path):
    """ALBERT's and XLM-R's steps: as many replacements as there are, where they make nothing longer."""
    quotes = [{"type": "Replace", "pattern": {"String": quote}, "content": '"'} for quote in ("``", "''")]
    spaces = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
    steps = [*quotes, {"type": "NFKD"}, {"type": "StripAccents"}, {"type": "Lowercase"}, spaces, *quotes]
    (tmp_path / "tokenizer.json").write_bytes(changed(UNIGRAM, normalizer={"type": "Sequence", "normalizers": steps}))
    assert Tokenizer.load(tmp_path).tokens("``the  cat''")[0] == "▁"
