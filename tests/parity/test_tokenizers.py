"""AutoTokenizer gives our ids for what we write, ours give its ids for what it writes: 10,000 lines of real text."""

import gzip
from dataclasses import replace
from pathlib import Path

import pytest
import transformers
from helpers import TINY
from hf_directories import OBJECTIVES, parameters
from transformers import AutoTokenizer

from bertjax.data import corpus
from bertjax.data.tokenizer import Tokenizer
from bertjax.hf.read import read
from bertjax.hf.write import write

SAMPLES = Path(__file__).parents[2] / "sample_data"
LINES = 10_000
HARD = [
    "",
    " ",
    "Ünï çødé ﬁ 北京 東京タワー 한국어 ①",
    "a\tb\u00a0c\u200bd\u2028e",
    "x" * 150,
    "don't stop--now... $5,000!",
    "𝔘 🙂👍🏽",
]


@pytest.fixture(scope="module")
def lines():
    texts = [gzip.decompress((SAMPLES / f"{name}.txt.gz").read_bytes()).decode() for name in ("novels", "messages")]
    paragraphs = [line for text in texts for line in text.split("\n") if line.strip()]
    found = [sentence for line in paragraphs for sentence in corpus.sentences([line])]
    assert len(found) >= LINES
    return found[:LINES]


def exported(folder, tokenizer):
    objective = OBJECTIVES["BertModel"]
    model = replace(TINY, vocab_size=tokenizer.vocab_size)
    params = parameters(objective, model)
    write(folder, model=model, tokenizer=tokenizer, params=params, length=model.max_length, about={})
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize(
    ("kind", "lowercase"),
    [("wordpiece", True), ("wordpiece", False), ("bpe", False), ("bpe", True), ("unigram", True), ("unigram", False)],
)
def test_what_we_write(tmp_path, lines, kind, lowercase):
    tokenizer = Tokenizer.train(lines, 2_000, lowercase=lowercase, kind=kind)
    theirs = exported(tmp_path, tokenizer)
    assert theirs(lines, add_special_tokens=False)["input_ids"] == tokenizer.encode_batch(lines)
    assert theirs(HARD, add_special_tokens=False)["input_ids"] == tokenizer.encode_batch(HARD)
    pairs = theirs(lines[:500], lines[500:1000], max_length=32, truncation="longest_first")
    for i in range(500):
        a, b = tokenizer.encode_batch([lines[i], lines[500 + i]])
        tokens, types = tokenizer.pair_ids(a, b, None)
        if len(tokens) <= 32:
            assert pairs["input_ids"][i] == tokens.tolist() and pairs["token_type_ids"][i] == types.tolist()
    assert theirs.model_max_length == TINY.max_length
    for role, name in tokenizer.specials._asdict().items():
        assert getattr(theirs, f"{role}_token") == name and getattr(theirs, f"{role}_token_id") == tokenizer.rows[name]


@pytest.mark.parametrize("lowercase", [True, False])
def test_what_transformers_writes(tmp_path, lines, lowercase):
    vocabulary = Tokenizer.train(lines, 2_000, lowercase=lowercase).vocabulary
    file = tmp_path / "vocab.txt"
    file.write_text("".join(f"{token}\n" for token in vocabulary))
    theirs = transformers.BertTokenizerFast(vocab_file=str(file), vocab=str(file), do_lower_case=lowercase)
    exported(tmp_path / "out", Tokenizer.load(file))  # weights and config.json
    for name in ("vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (tmp_path / "out" / name).unlink()
    theirs.save_pretrained(tmp_path / "out")
    ours = read(tmp_path / "out").tokenizer
    assert ours.encode_batch(lines) == theirs(lines, add_special_tokens=False)["input_ids"]
