"""Reading, encoding, decoding and scoring of named entities."""

import gzip
import json
from dataclasses import replace

import numpy as np
import pytest
from letters import Letters

from bertjax import tasks
from bertjax.errors import DataError
from bertjax.tasks.ner import Sentence, iob2

CONLL = """-DOCSTART- -X- O O

West NNP I-NP I-MISC
Indian NNP I-NP I-MISC
Phil NNP I-NP I-PER
. . O O

LONDON NNP I-NP I-LOC
Paris NNP I-NP B-LOC

"""
SENTENCES = [
    Sentence(("West", "Indian", "Phil", "."), ("B-MISC", "I-MISC", "B-PER", "O")),
    Sentence(("LONDON", "Paris"), ("B-LOC", "B-LOC")),
]


@pytest.fixture
def task():
    return tasks.find("conll2003")


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("O I-PER I-PER O I-PER", "O B-PER I-PER O B-PER"),  # IOB1
        ("I-PER B-PER I-PER I-LOC", "B-PER B-PER I-PER B-LOC"),  # IOB1
        ("B-PER I-PER B-PER O B-LOC", "B-PER I-PER B-PER O B-LOC"),  # IOB2
        ("B-PER I-PER E-PER S-PER S-LOC O", "B-PER I-PER I-PER B-PER B-LOC O"),  # BIOES
        ("B-PER E-PER B-PER E-PER", "B-PER I-PER B-PER I-PER"),
        ("B-PER L-PER U-PER", "B-PER I-PER B-PER"),  # BILOU
        ("", ""),
    ],
)
def test_schemes(tags, expected):
    assert iob2(tags.split()) == tuple(expected.split())
    assert iob2(expected.split()) == tuple(expected.split())


def test_column_files(task, tmp_path):
    (tmp_path / "eng.testa").write_text(CONLL)
    assert task.read(str(tmp_path), "dev") == SENTENCES
    (tmp_path / "conll2003").mkdir()
    tabs = CONLL.replace(" ", "\t").replace("\n", "\r\n")
    (tmp_path / "conll2003" / "train.txt.gz").write_bytes(gzip.compress(tabs.encode()))
    assert task.read(str(tmp_path), "train") == SENTENCES


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("West I-MISC\nIndian\n", r"eng.testa:2: 'Indian' has no tag; write a word and its tag, with a space between"),
        ("West I-MISC\n\nPhil I-PRE\n", r"eng.testa:3: tag 'I-PRE' is not O or one of B- I- .*; did you mean 'PER'\?"),
        ("Phil PER\n", r"eng.testa:1: tag 'PER' is not O"),
        ("Phil X-PER\n", r"eng.testa:1: tag 'X-PER' is not O"),
        ("-DOCSTART- O\n\n-DOCSTART- O\n", "eng.testa: there are no sentences in it"),
        (b"Phil O\nM\xfcller I-PER\n", r"eng.testa:2: byte 2 of the line is not UTF-8; .*iconv"),
    ],
)
def test_malformed_files(task, tmp_path, content, message):
    (tmp_path / "eng.testa").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        task.read(str(tmp_path), "dev")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("in.txt", "West\nIndian\nPhil\n.\n\n\nLONDON\nParis\n"),
        ("in.conll", CONLL),
        ("in.jsonl", "".join(json.dumps({"words": row.words}) + "\n" for row in SENTENCES)),
    ],
)
def test_inputs(task, tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert task.read_inputs(str(tmp_path / name)) == [row._replace(tags=None) for row in SENTENCES]


@pytest.mark.parametrize("line", ['{"words": "West Indian"}', '{"text": "x"}', '{"words": ["a", 1]}'])
def test_malformed_inputs(task, tmp_path, line):
    (tmp_path / "in.jsonl").write_text(f'{{"words": ["a"]}}\n{line}\n')
    with pytest.raises(DataError, match=r'in.jsonl:2: conll2003 needs "words", a list of strings'):
        task.read_inputs(str(tmp_path / "in.jsonl"))


def test_the_first_piece_of_a_word_has_its_label(task):
    (example,) = task.encode([Sentence(("ab", "c", "def"), ("B-PER", "O", "I-LOC"))], Letters(), 16)
    assert "".join(map(chr, example["tokens"])) == "\1abcdef\2"
    assert example["tags"].tolist() == [-1, 1, -1, 0, 6, -1, -1, -1]
    (example,) = task.encode([Sentence(("ab",), None)], Letters(), 16)
    assert "tags" not in example


def test_a_word_without_pieces_keeps_its_place(task):
    (example,) = task.encode([Sentence(("a", "\u3000", "b"), ("O", "B-PER", "O"))], Letters(), 16)
    assert example["tokens"].tolist() == [1, ord("a"), Letters.unk_id, ord("b"), 2]
    assert example["tags"].tolist() == [-1, 0, 1, 0, -1]


def test_words_but_the_first_carry_a_space(task):
    seen = []

    class Spy(Letters):
        def encode_batch(self, texts):
            seen.extend(texts)
            return super().encode_batch(texts)

    task.encode([Sentence(("a", "b", "a"), None)], Spy(), 16)
    assert seen == ["a", " b", " a"]


def test_long_sentences_are_kept_whole(task):
    words = tuple("abcdefghijklmnopqrstuvwxyz")
    tags = tuple(task.labels[i % 9] for i in range(26))
    examples = replace(task, stride=4).encode([Sentence(words, tags)] * 2, Letters(), 12)
    assert [len(example["tokens"]) for example in examples[:5]] == [12] * 5
    for row in (0, 1):
        places = [example["place"] for example in examples if example["place"].row == row]
        assert sorted(word for place in places for word in place.words) == list(range(26))  # each in one window
    for example in examples:
        for word, token in zip(example["place"].words, example["place"].tokens, strict=True):
            assert chr(example["tokens"][token]) == words[word]
        assert sorted(np.flatnonzero(example["tags"] >= 0)) == sorted(example["place"].tokens)


def decode(task, rows, length=12):
    """What the right logits are read as."""
    examples = task.encode(rows, Letters(), length)
    outputs = [np.full((length, 9), -1.0, np.float32) for _ in examples]
    for output, example in zip(outputs, examples, strict=True):
        for token in example["place"].tokens:
            output[token, example["tags"][token]] = 1
    return task.decode(outputs, examples, rows, {})


def test_right_logits_give_back_tags_and_entities(task):
    rows = [*SENTENCES, Sentence(tuple("abcdefghijklmnop"), ("O", "B-LOC", *["I-LOC"] * 13, "O")), Sentence((), ())]
    predictions = decode(task, rows)
    assert [tuple(p["prediction"]) for p in predictions] == [row.tags for row in rows]
    assert predictions[0]["entities"] == [
        {"type": "MISC", "begin": 0, "end": 2, "text": "West Indian"},
        {"type": "PER", "begin": 2, "end": 3, "text": "Phil"},
    ]
    assert predictions[2]["entities"] == [{"type": "LOC", "begin": 1, "end": 15, "text": " ".join("bcdefghijklmno")}]
    assert task.score(predictions, rows) == {"precision": 1, "recall": 1, "f1": 1}
    assert task.table(predictions)[:2] == [["index", "word", "prediction"], [0, "West", "B-MISC"]]
    assert task.table(predictions)[5] == [1, "LONDON", "B-LOC"]


def test_predictions_are_proper_iob2(task):
    rows = [Sentence(("a", "b", "c"), ("O", "I-PER", "I-LOC"))]
    assert decode(task, rows)[0]["prediction"] == ["O", "B-PER", "B-LOC"]


def test_scores_are_of_whole_entities(task):
    truth = Sentence(tuple("abcde"), ("B-PER", "I-PER", "O", "B-LOC", "B-LOC"))
    predicted = {"prediction": ["B-PER", "O", "O", "B-LOC", "B-MISC"]}  # one of three, and one of three is right
    assert task.score([predicted], [truth]) == pytest.approx({"precision": 1 / 3, "recall": 1 / 3, "f1": 1 / 3})
    nothing = {"prediction": ["O"] * 5}
    assert task.score([nothing], [truth]) == {"precision": 0, "recall": 0, "f1": 0}
    assert task.score([nothing], [truth._replace(tags=("O",) * 5)]) == {"precision": 0, "recall": 0, "f1": 0}
    with pytest.raises(DataError, match="conll2003: these rows have no labels"):
        task.score([nothing], [truth._replace(tags=None)])
