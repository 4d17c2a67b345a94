"""Reading, encoding, decoding and scoring of questions over contexts."""

import json
from dataclasses import replace

import numpy as np
import pytest
from letters import Letters

from bertjax import tasks
from bertjax.errors import DataError
from bertjax.tasks._spans import Question

CONTEXT = "Ünï 😀 cat sat."  # the cat begins at code point 6


def document(*questions, context=CONTEXT):
    return {"version": "x", "data": [{"title": "t", "paragraphs": [{"context": context, "qas": list(questions)}]}]}


def question(key="q1", text="cat", start=6, **more):
    return {"id": key, "question": "Who?", "answers": [{"text": text, "answer_start": start}], **more}


IMPOSSIBLE = {"id": "q2", "question": "Why?", "answers": [], "is_impossible": True}


def write(folder, value, name="dev-v2.0.json"):
    (folder / name).write_text(value if isinstance(value, str) else json.dumps(value))
    return str(folder)


def test_published_files(tmp_path):
    write(tmp_path, document(question(), IMPOSSIBLE))
    rows = tasks.find("squad2").read(str(tmp_path), "dev")
    assert rows == [Question("q1", "Who?", CONTEXT, (("cat", 6),)), Question("q2", "Why?", CONTEXT, ())]
    (tmp_path / "squad").mkdir()
    write(tmp_path / "squad", document(question()), "train-v1.1.json")
    assert tasks.find("squad").read(str(tmp_path), "train") == rows[:1]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ('{"data": [\n{"paragraphs": }]}', r"dev-v2.0.json:2: not JSON \(Expecting value, column 16\); get it again"),
        ("[" * 100_000, r"dev-v2.0.json: not JSON \(brackets in brackets"),
        ([], 'not SQuAD\'s format, an object with "data"'),
        ({"data": {}}, r'dev-v2.0.json: needs "data", a list; is dict'),
        ({"data": [3]}, r'data\[0\]: needs "paragraphs", a list; is NoneType'),
        ({"data": []}, "no questions in it"),
        (document(question(), context=3), r'data\[0\].paragraphs\[0\]: needs a "context", a string; is 3'),
        (document(question(), "x"), r"qas\[1\]: not an object"),
        (document({**question(), "question": None}), r'qas\[0\]: needs a "question", a string; is None'),
        (document({**question(), "id": None}), r'qas\[0\]: needs an "id"'),
        (document(question(text=5)), r'qas\[0\].answers\[0\]: needs a "text", a string; is 5'),
        (document(question(start="6")), r"qas\[0\].answers\[0\]: answer_start is '6', not a place"),
        (document(question(start=-1)), "answer_start is -1"),
        (document({**question(), "answers": []}), r"qas\[0\]: question q1 has no answers; give the published file"),
        (document(question(), question()), r"qas\[1\]: the id 'q1' was given to another question before"),
    ],
)
def test_malformed_files(tmp_path, value, message):
    with pytest.raises(DataError, match=message):
        tasks.find("squad2").read(write(tmp_path, value), "dev")


def test_questions_without_an_answer_are_for_squad2(tmp_path):
    write(tmp_path, document(IMPOSSIBLE), "dev-v1.1.json")
    with pytest.raises(DataError, match=r"question q2 is_impossible, as in SQuAD 2.0: use --task squad2"):
        tasks.find("squad").read(str(tmp_path), "dev")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("in.json", json.dumps(document({"id": 7, "question": "Who?"}))),
        ("in.jsonl", json.dumps({"id": 7, "question": "Who?", "context": CONTEXT, "more": 1})),
        ("in.tsv", f"id\tquestion\tcontext\n7\tWho?\t{CONTEXT}\n"),
        ("in.csv", f'id,question,context\n7,Who?,"{CONTEXT}"\n'),
    ],
)
def test_inputs(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert tasks.find("squad").read_inputs(str(tmp_path / name)) == [Question("7", "Who?", CONTEXT, None)]


def test_inputs_without_ids_are_numbered_and_checked(tmp_path):
    (tmp_path / "in.tsv").write_text(f"question\tcontext\nWho?\t{CONTEXT}\nWhy?\tx\n")
    assert [row.id for row in tasks.find("squad2").read_inputs(str(tmp_path / "in.tsv"))] == ["0", "1"]
    (tmp_path / "in.jsonl").write_text('{"question": "Who?", "context": "x"}\n{"question": "Who?"}\n')
    with pytest.raises(DataError, match=r"in.jsonl:2: squad needs 'question' and 'context', each a string"):
        tasks.find("squad").read_inputs(str(tmp_path / "in.jsonl"))


def test_a_misaligned_answer_is_a_fault():
    row = Question("q1", "Who?", CONTEXT, (("cat", 6),))
    fault = tasks.find("squad").fault
    assert fault(row) == fault(row._replace(answers=())) == fault(row._replace(answers=None)) == ""
    expected = "question q1: the answer 'cat' is not at 5 of its context, there is ' ca'"
    assert fault(row._replace(answers=(("cat", 5), ("cat", 6)))) == expected
    assert "at 99 of its context, there is ''" in fault(row._replace(answers=(("cat", 99),)))


# -- windows in, answers out ----------------------------------------------------------------------------------------

LONG = "abc def ghi jkl mno"  # 15 letters


@pytest.fixture
def task():
    return replace(tasks.find("squad2"), stride=4, max_answer=4, n_best=3)


def encode(task, *rows, length=16):
    return task.encode(rows, Letters(), length)


def text_of(example):
    return "".join(map(chr, example["tokens"]))


def test_windows_show_the_question_and_a_part_of_the_context(task):
    examples = encode(task, Question("1", "Who", LONG, (("def", 4),)))
    assert [text_of(example) for example in examples] == [
        "\1Who\2abcdefghij\2",
        "\1Who\2efghijklmn\2",
        "\1Who\2ijklmno\2",
    ]
    assert [example["types"].sum() for example in examples] == [11, 11, 8]
    first, second, third = (example["place"] for example in examples)
    assert first.first == 5 and second.offsets[0].tolist() == [5, 6]
    assert [sum(place.central) for place in (first, second, third)] == [7, 4, 4]  # each letter once
    assert [example["span"].tolist() for example in examples] == [[8, 10], [0, 0], [0, 0]]  # "def" is in the first only


def test_tokenizers_with_two_separators(task):
    class Roberta(Letters):
        def pair_ids(self, a, b, max_length):
            ids = [1, *a, 2, 2, *b, 2]
            assert len(ids) <= max_length
            return np.array(ids), np.zeros(len(ids))

    examples = task.encode([Question("1", "Who", LONG, (("def", 4),))], Roberta(), 16)
    assert text_of(examples[0]) == "\1Who\2\2abcdefghi\2"
    assert text_of(examples[0])[slice(*(examples[0]["span"] + [0, 1]))] == "def"


def test_spans_of_questions_that_have_none_or_are_not_known(task):
    rows = [Question("1", "W", "abc", answers) for answers in ((), None, (("", 1),))]
    none, unknown, empty = encode(task, *rows)
    assert none["span"].tolist() == empty["span"].tolist() == [0, 0] and "span" not in unknown


def test_an_answer_may_begin_and_end_inside_tokens():
    class Words(Letters):
        def encode_with_offsets(self, texts):
            return [([9] * 3, np.array([(0, 3), (4, 7), (8, 11)]))] * len(texts)

    rows = [Question("1", "W", "abc def ghi", (("ef g", 5),))]
    ((example,)) = tasks.find("squad").encode(rows, Words(), 16)
    assert example["span"].tolist() == [6, 7]  # [CLS] 9 9 9 [SEP] abc def ghi


def test_a_long_question_is_cut_and_leaves_half_the_row(task):
    (example,) = encode(task, Question("1", "x" * 99, "abc", None), length=16)
    assert text_of(example) == "\1" + "x" * 6 + "\2abc\2"
    (example,) = encode(task, Question("1", "x" * 99, "abc", None), length=200)
    assert text_of(example).count("x") == 64


def decode(task, row, logits, tuned=None, length=16):
    """`logits`: (example, token) -> (start, end); all others are 0."""
    examples = encode(task, row, length=length)
    outputs = [np.zeros((length, 2), np.float32) for _ in examples]
    for (example, token), values in logits.items():
        outputs[example][token] = values
    (prediction,) = task.decode(outputs, examples, [row], tuned or {})
    return prediction


ROW = Question("1", "Who", LONG, None)


def test_the_best_span_wins_and_the_context_is_not_altered(task):
    prediction = decode(task, ROW, {(0, 8): (4, 0), (0, 11): (0, 5)})
    assert prediction["prediction"] == "def g" and prediction["id"] == "1"
    best = prediction["best"][0]
    assert (LONG[best["begin"] : best["end"]], best["score"]) == ("def g", 9)
    assert len(prediction["best"]) == 4 and prediction["best"][-1]["probability"] > 0  # three, and none at all
    assert sum(entry["probability"] for entry in prediction["best"]) == pytest.approx(1)


def test_an_answer_has_at_most_so_many_tokens_and_does_not_end_before_it_begins(task):
    prediction = decode(task, ROW, {(0, 6): (4, 0), (0, 10): (0, 5), (0, 5): (0, 9)})
    assert prediction["best"][0]["score"] == 9 and prediction["prediction"] == "a"
    prediction = decode(task, ROW, {(0, 6): (4, 0), (0, 10): (0, 5)})
    assert prediction["best"][0]["score"] == 5  # not from b to f, which are five


def test_an_answer_begins_where_no_window_shows_more(task):
    # "i" is the first token of the third window but central in the second; the question and [SEP] are no answers
    prediction = decode(task, ROW, {(2, 5): (9, 9), (1, 9): (3, 3), (0, 1): (9, 9), (0, 15): (9, 9)})
    assert (prediction["prediction"], prediction["best"][0]["score"]) == ("i", 6)


def test_the_same_text_is_listed_once_with_its_best_score(task):
    row = ROW._replace(context="cat cat")
    prediction = decode(replace(task, n_best=9, max_answer=3), row, {(0, 5): (3, 0), (0, 7): (0, 3), (0, 10): (0, 2)})
    assert [entry["score"] for entry in prediction["best"] if entry["text"] == "cat"] == [6]


def test_null_wins_above_the_tuned_threshold(task):
    logits = {(0, 0): (3, 3), (1, 0): (1, 1), (2, 0): (4, 4), (0, 8): (3, 0), (0, 9): (0, 3)}
    prediction = decode(task, ROW, logits)
    assert prediction["null_odds"] == 2 - 6  # the window that says least for null
    assert prediction["prediction"] == "de"
    assert decode(task, ROW, logits, {"null_threshold": -3.9})["prediction"] == "de"
    assert decode(task, ROW, logits, {"null_threshold": -4.1})["prediction"] == ""
    squad = decode(replace(tasks.find("squad"), stride=4), ROW, logits, {"null_threshold": -9})
    assert squad["prediction"] == "de" and "null_odds" not in squad and len(squad["best"]) == 20


@pytest.mark.parametrize("name", ["squad", "squad2"])
@pytest.mark.parametrize("context", ["", " \n "])
def test_every_question_gets_a_prediction(name, context):
    prediction = decode(tasks.find(name), ROW._replace(context=context), {})
    assert prediction["prediction"] == "" and json.dumps(prediction, allow_nan=False)


def predicted(texts, odds):
    return [
        {"id": str(i), "prediction": text, "null_odds": null, "best": [{"text": text, "score": 1.0}]}
        for i, (text, null) in enumerate(zip(texts, odds, strict=True))
    ]


def test_scores_of_squad2_and_its_threshold():
    task = tasks.find("squad2")
    rows = [Question(str(i), "?", "x", answers) for i, answers in enumerate([(("cat", 0), ("a dog", 0)), (), ()])]
    assert task.score(predicted(["dog", "", "dog"], [0, 0, 0]), rows) == pytest.approx(
        {"f1": 2 / 3, "exact_match": 2 / 3, "has_answer_f1": 1, "no_answer_f1": 0.5}
    )
    assert -2 < task.tune(predicted(["dog", "owl", "owl"], [-2, 3, 4]), rows)["null_threshold"] < 3
    assert "no_answer_f1" not in task.score(predicted(["dog"], [0]), rows[:1])
    with pytest.raises(DataError, match="squad2: these rows have no labels"):
        task.score(predicted(["dog"], [0]), [ROW])


def test_scores_of_squad_and_what_the_scorers_read():
    task, rows = tasks.find("squad"), [ROW._replace(answers=(("the", 0), ("small cat", 0)))]
    assert task.tune([], []) == {}
    predictions = predicted(["the cat"], [0.5])
    assert task.score(predictions, rows) == pytest.approx({"f1": 2 / 3, "exact_match": 0})
    assert task.score(predicted(["the"], [0.5]), rows) == {"f1": 0, "exact_match": 1}  # as the official scorer has it
    assert task.files(predictions, rows) == {
        "predictions": {"0": "the cat"},
        "nbest_predictions": {"0": predictions[0]["best"]},
    }
    assert tasks.find("squad2").files(predictions, rows)["null_odds"] == {"0": 0.5}
    lines = predicted(["two\nlines\t"], [0.5])
    assert task.table(lines) == [["id", "prediction"], ["0", "two lines"]]
    assert tasks.find("squad2").table(lines) == [["id", "prediction", "null_odds"], ["0", "two lines", 0.5]]
