"""Task files that were changed on their way: the very rows that are there, or a message with the line."""

import copy
import gzip

import numpy as np
import pytest
from task_targets import LENGTH, TOKENIZER, squad

from bertjax import tasks
from bertjax.errors import DataError
from bertjax.tasks import _lines

HEADER = "index\tsentence1\tsentence2\tlabel\n"
ROWS = ["0\tThe cat\tsat\tentailment\n", '1\tA "cat\tran "\tnot_entailment\n', "2\t'x\ty''\tentailment\n"]
RTE = HEADER + "".join(ROWS)


def rte(folder, text):
    (folder / "train.tsv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return tasks.find("rte").read(str(folder), "train")


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        (RTE, "The cat", "'x"),
        (RTE.replace("\n", "\r\n"), "The cat", "'x"),
        ("\ufeff" + RTE, "The cat", "'x"),
        (RTE.rstrip("\n"), "The cat", "'x"),
        (RTE + "\n\n", "The cat", "'x"),
        (RTE.replace("The cat", '"The cat'), '"The cat', "'x"),
        (RTE.replace("The cat", "The\u2028cat\u0085on\x0ca"), "The\u2028cat\u0085on\x0ca", "'x"),
        (RTE.replace("The cat", "The\0cat"), "The\0cat", "'x"),
        (RTE.replace("The cat", "The\rcat"), "The\rcat", "'x"),
        (RTE.replace("The cat", ""), "", "'x"),
        (RTE.replace("'x", "<b>\\t"), "The cat", "<b>\\t"),
        (HEADER.replace("index\t", "") + "".join(row[2:] for row in ROWS), "The cat", "'x"),
        (HEADER.replace("label", "label\textra") + "".join(f"{row[:-1]}\t\n" for row in ROWS), "The cat", "'x"),
    ],
)
def test_glue_files_that_are_read_whole(tmp_path, text, first, last):
    rows = rte(tmp_path, text)
    assert (len(rows), rows[0].text_a, rows[2].text_a) == (3, first, last)
    assert [row.label for row in rows] == [0, 1, 0] and rows[1].text_a == 'A "cat'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (RTE.replace("ran", "ran\tfast"), "train.tsv:3: 5 fields instead of 4"),
        (RTE.replace("\tran", ""), "train.tsv:3: 3 fields instead of 4"),
        (RTE.replace("ran", "ran\nfast"), "train.tsv:3: 3 fields instead of 4"),
        (RTE.replace("\t", "    "), "train.tsv:1: rte needs a column 'sentence1'"),
        (RTE.replace("\t", ","), "train.tsv:1: rte needs a column 'sentence1'"),
        ("".join(ROWS), "train.tsv:1: rte needs a column 'sentence1', here are '0'"),
        (HEADER.upper() + "".join(ROWS), "train.tsv:1: rte needs a column 'sentence1', here are 'INDEX'"),
        (HEADER, "train.tsv: only a header"),
        (RTE.replace("not_entailment", "Not_entailment"), "train.tsv:3: label 'Not_entailment' is not one of"),
        (RTE.replace("not_entailment", ""), "train.tsv:3: label '' is not one of"),
        (RTE.replace("\tran", "\tran\t").replace("not_", "\tnot_"), "train.tsv:3: 6 fields"),
        (RTE.encode().replace(b"ran", b"r\xffn"), "train.tsv:3: byte 11 of the line is not UTF-8"),
        (RTE.encode("utf-16"), "train.tsv:1: byte 1 of the line is not UTF-8"),
        (RTE.replace("1\tA", "\n1\tA"), "train.tsv:3: 1 fields instead of 4"),
        (b"", "the file is empty"),
        (b"\n\r\n", "the file is empty"),
    ],
)
def test_glue_files_that_are_refused_with_the_line(tmp_path, text, message):
    with pytest.raises(DataError) as caught:
        rte(tmp_path, text)
    assert message in str(caught.value)


def test_a_packed_task_file_that_is_a_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr(_lines, "MOST", 1 << 20)
    (tmp_path / "train.tsv.gz").write_bytes(gzip.compress(RTE.encode() + b"0" * (2 << 20)))
    with pytest.raises(DataError, match=r"train.tsv.gz: unpacks to over 1 MB, which no text does"):
        tasks.find("rte").read(str(tmp_path), "train")
    (tmp_path / "train.tsv.gz").write_bytes(gzip.compress(RTE.encode()))
    assert len(tasks.find("rte").read(str(tmp_path), "train")) == 3


# -- SQuAD ------------------------------------------------------------------------------------------------------------


def item(document, number):
    return document["data"][0]["paragraphs"][0]["qas"][number]


def change(number, **values):
    def spoil(document):
        item(document, number).update(values)

    return spoil


def answer(number, **values):
    def spoil(document):
        item(document, number)["answers"][0].update(values)

    return spoil


def context(text):
    def spoil(document):
        document["data"][0]["paragraphs"][0]["context"] = text

    return spoil


def predicted(folder, document):
    """The ids that get a prediction from a model that knows nothing, and the faults of the rows in training."""
    import json

    (folder / "train-v2.0.json").write_text(json.dumps(document))
    task = tasks.find("squad2")
    rows = task.read(str(folder), "train")
    examples = task.encode(rows, TOKENIZER, LENGTH)
    outputs = [np.random.default_rng(n).normal(size=(LENGTH, 2)).astype(np.float32) for n in range(len(examples))]
    return [p["id"] for p in task.decode(outputs, examples, rows, {})], [f for f in map(task.fault, rows) if f]


@pytest.mark.parametrize(
    ("spoil", "faults"),
    [
        (lambda document: None, 0),
        (answer(0, answer_start=5), 1),  # beside its place
        (answer(0, answer_start=10**9), 1),
        (answer(0, answer_start=(1 << 63) - 1), 1),
        (answer(0, text="dog"), 1),
        (answer(0, text=""), 0),
        (answer(0, text="the cat sat " * 99), 1),
        (change(0, question=""), 0),
        (change(0, question="\0\u2028" * 500), 0),
        (change(1, question="why " * 10_000), 0),
        (change(0, id="../../etc/passwd"), 0),
        (context(""), 1),
        (context(" \n\t"), 1),
        (context("\u2028\u3000the cat"), 1),
        (context("고양이 " * 500), 1),
        (context("x" * 20_000), 1),
        (lambda document: document.update(extra=[1, 2]), 0),
        (lambda document: document["data"].append(copy.deepcopy({"title": "", "paragraphs": []})), 0),
    ],
)
def test_every_question_gets_a_prediction(tmp_path, spoil, faults):
    document = squad(True)
    spoil(document)
    ids, wrong = predicted(tmp_path, document)
    assert ids == [item(document, 0)["id"], "q2"] and len(wrong) == faults


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (change(1, id="q1"), r"qas\[1\]: the id 'q1' was given to another question before"),
        (change(1, id=None), r'qas\[1\]: needs an "id"'),
        (change(1, question=3), r'qas\[1\]: needs a "question", a string; is 3'),
        (change(0, answers=[]), r"qas\[0\]: question q1 has no answers"),
        (change(0, answers={"text": ["cat"], "answer_start": [4]}), r'qas\[0\]: needs "answers", a list; is dict'),
        (answer(0, answer_start=-1), r"answers\[0\]: answer_start is -1"),
        (answer(0, answer_start=True), r"answers\[0\]: answer_start is True"),
        (answer(0, answer_start=4.0), r"answers\[0\]: answer_start is 4.0"),
        (answer(0, text=None), r'answers\[0\]: needs a "text"'),
        (context(None), r'paragraphs\[0\]: needs a "context"'),
        (lambda document: document.update(data={}), r'needs "data", a list; is dict'),
        (lambda document: document.update(data=[]), r"there are no questions in it"),
    ],
)
def test_squad_files_that_are_refused_with_the_place(tmp_path, spoil, message):
    document = squad(True)
    spoil(document)
    with pytest.raises(DataError, match=message):
        predicted(tmp_path, document)
