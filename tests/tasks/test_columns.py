"""The user's own files: columns by name, labels found in the training file."""

import gzip
import json

import pytest

from bertjax import tasks
from bertjax.contracts import Row
from bertjax.errors import ConfigError, DataError
from bertjax.tasks._columns import MOST, Columns, of_columns, with_labels

AG = Columns(texts=("title", "text"), label="class", header=("class", "title", "text"), files=("train.csv", "test.csv"))
IMDB = Columns(header=("path", "label", "text"))
REVIEWS = Columns(texts=("review",), label="stars")


def write(folder, name, text):
    data = text.encode()
    (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)


def read(columns, folder, split):
    return of_columns(with_labels(columns, str(folder))).read(str(folder), split)


def test_csv_without_header_with_two_texts_and_its_own_names(tmp_path):
    write(tmp_path, "train.csv", '"3","Wall St. ""Bears""","Short,\nsellers"\n"10","Oil","b"\n"3","x","y"\n')
    write(tmp_path, "test.csv.gz", '"10","Fears","c"\n')
    assert with_labels(AG, str(tmp_path)).labels == ("3", "10")  # by value, not by spelling
    assert read(AG, tmp_path, "train")[:2] == [Row('Wall St. "Bears"', "Short,\nsellers", 0), Row("Oil", "b", 1)]
    assert read(AG, tmp_path, "dev") == [Row("Fears", "c", 1)]


def test_tsv_without_header_whose_quotes_are_characters(tmp_path):
    write(tmp_path, "train.tsv", 'pos/1_7.txt\t1\tA "fine\nneg/2_3.txt\t0\tfilm"\n')
    write(tmp_path, "valid.tsv", "pos/3_9.txt\t1\tgood\n")
    assert read(IMDB, tmp_path, "train") == [Row('A "fine', None, 1), Row('film"', None, 0)]
    assert read(IMDB, tmp_path, "dev") == [Row("good", None, 1)]
    task = of_columns(with_labels(IMDB, str(tmp_path)))
    assert task.read_inputs(str(tmp_path / "valid.tsv")) == [Row("good", None, None)]
    write(tmp_path, "in.csv", 'text,id\n"a ""b"", c",1\n')
    assert task.read_inputs(str(tmp_path / "in.csv")) == [Row('a "b", c', None, None)]


def test_json_lines_and_labels_that_are_no_strings(tmp_path):
    rows = [{"review": "so", "stars": 2.5}, {"review": "la", "stars": 4}, {"review": "ok", "stars": True}]
    write(tmp_path, "train.jsonl.gz", "".join(json.dumps(row) + "\n" for row in rows))
    assert with_labels(REVIEWS, str(tmp_path)).labels == ("2.5", "4", "true")
    numbers = Columns(texts=("review",), label="stars", regression=True)
    write(tmp_path, "dev.jsonl", "".join(json.dumps(row) + "\n" for row in rows[:2]))
    assert read(numbers, tmp_path, "dev") == [Row("so", None, 2.5), Row("la", None, 4.0)]
    assert of_columns(numbers).metrics == ("pearson", "spearman")


@pytest.mark.parametrize(
    ("columns", "train", "message"),
    [
        (Columns(), "a\tb\n1\t2\n", r"train.tsv:1: there is no column 'label', here are 'a', 'b'; see --columns.label"),
        (Columns(texts=("t",)), "text\tlabel\nx\t1\ny\t2\n", r"train.tsv:1: text needs a column 't'"),
        (Columns(), "text\tlabel\nx\t1\ny\t1\n", r"train.tsv: 1 labels, as '1'; classes are 2 to 1,000"),
        (Columns(), "text\tlabel\n" + "".join(f"x\t{i}\n" for i in range(MOST + 1)), r"1,001 labels.*regression"),
        (Columns(labels=("1", "2")), "text\tlabel\nx\t1\nz\t3\n", r"train.tsv:3: label '3' is not one of 1, 2"),
        (Columns(), "text\tlabel\nx\n", r"train.tsv:2: 1 fields instead of 2"),
        (IMDB, "1\tx\n", r"train.tsv:1: 2 fields instead of 3 \(path, label, text\)"),
    ],
)
def test_what_does_not_fit_is_told(tmp_path, columns, train, message):
    write(tmp_path, "train.tsv", train)
    with pytest.raises(DataError, match=message):
        read(columns, tmp_path, "train")


def test_a_row_of_json_without_the_label(tmp_path):
    write(tmp_path, "train.jsonl", '{"text": "a", "label": "x"}\n{"text": "b"}\n')
    with pytest.raises(DataError, match=r"train.jsonl:2: 'label' is to be a label, a string or a number"):
        read(Columns(), tmp_path, "train")


def test_a_label_of_dev_that_training_has_not(tmp_path):
    write(tmp_path, "train.tsv", "text\tlabel\nx\tgood\ny\tbad\n")
    write(tmp_path, "dev.tsv", "text\tlabel\nx\tfair\n")
    with pytest.raises(DataError, match=r"dev.tsv:2: label 'fair' is not one of bad, good"):
        read(Columns(), tmp_path, "dev")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"texts": ()}, "columns.texts=: name one column"),
        ({"texts": ("a", "b", "c")}, "name one column, or the two of a pair"),
        ({"files": ("a.csv",)}, "columns.files=a.csv"),
        ({"header": ("label", "words")}, "columns.header=label words does not name text"),
        ({"labels": ("a",)}, "columns.labels=a: 2 classes or more"),
        ({"labels": ("a", "b"), "regression": True}, "in regression none"),
    ],
)
def test_columns_check_themselves(options, message):
    with pytest.raises(ConfigError, match=message):
        Columns(**options)


def test_columns_are_of_the_users_files_alone():
    assert tasks.find("text", IMDB) == of_columns(IMDB)
    assert tasks.find("cola", Columns()).name == "cola" and tasks.resolved("cola", Columns(), "") == Columns()
    with pytest.raises(ConfigError, match=r"task=text\); those of cola are known"):
        tasks.find("cola", IMDB)
