"""Reading, encoding, decoding and scoring of multiple choice."""

import json

import numpy as np
import pytest
from letters import Letters

from bertjax import tasks
from bertjax.errors import DataError
from bertjax.tasks._choices import Choices

SWAG_HEADER = ",video-id,fold-ind,startphrase,sent1,sent2,gold-source,ending0,ending1,ending2,ending3,label\n"
SWAG_ROW = '0,v,1,"A man, tall. He","A man, ""tall"".",He,gold,sits.,runs,"stands, up",flies.,2\n'
DREAM = [
    [["M: How long?", "W: Ten years."], [{"question": "How?", "choice": ["Two", "Ten", "Six"], "answer": "Ten"}], "1"],
    [["M: Hi."], [{"question": "Who?", "choice": ["M", "W"], "answer": "M"}] * 2, "2"],
]
COPA = {"premise": "It rained.", "choice1": "Wet.", "choice2": "Dry.", "question": "effect", "label": 1, "idx": 0}
ROWS = {
    "swag": [Choices('A man, "tall".', "He", ("sits.", "runs", "stands, up", "flies."), 2)],
    "dream": [
        Choices("M: How long? W: Ten years.", "How?", ("Two", "Ten", "Six"), 1),
        *[Choices("M: Hi.", "Who?", ("M", "W"), 0)] * 2,
    ],
    "copa": [Choices("It rained.", "so", ("Wet.", "Dry."), 1), Choices("It rained.", "because", ("Wet.", "Dry."), 0)],
}
FILES = {
    "swag/val.csv": SWAG_HEADER + SWAG_ROW,
    "dream/dev.json": json.dumps(DREAM, indent=1),
    "COPA/val.jsonl": f"{json.dumps(COPA)}\n{json.dumps({**COPA, 'question': 'cause', 'label': 0})}\n",
}
FOLDERS = {"swag": "swag", "dream": "dream", "copa": "COPA"}


@pytest.fixture
def data(tmp_path):
    """A folder with small files of every task, as they are published."""
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(content)
    return tmp_path


@pytest.mark.parametrize("name", ROWS)
def test_published_files(data, name):
    assert tasks.find(name).read(str(data), "dev") == tasks.find(name).read(str(data / FOLDERS[name]), "dev")
    assert tasks.find(name).read(str(data), "dev") == ROWS[name]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("swag/test.csv", (SWAG_HEADER + SWAG_ROW).replace(",label\n", "\n").replace(",2\n", "\n")),
        ("dream/test.json", FILES["dream/dev.json"].replace('"answer"', '"note"')),
        ("COPA/test.jsonl", FILES["COPA/val.jsonl"].replace('"label"', '"note"')),
    ],
)
def test_a_test_set_may_lack_labels(data, file, content):
    (data / file).write_text(content)
    name = file.split("/")[0].lower()
    unlabelled = [row._replace(label=None) for row in ROWS[name]]
    assert tasks.find(name).read(str(data), "test") == tasks.find(name).read_inputs(str(data / file)) == unlabelled
    with pytest.raises(DataError, match=f"{name}: these rows have no labels"):
        tasks.find(name).score([{"prediction": 0}] * len(unlabelled), unlabelled)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("swag/val.csv", "a,b\n1,2\n", r"val.csv:1: SWAG needs the columns sent1, .*; missing: \['sent1', 'sent2', "),
        ("swag/val.csv", SWAG_HEADER, r"val.csv: only a header, no rows"),
        ("swag/val.csv", SWAG_HEADER + SWAG_ROW + "1,2,3\n", r"val.csv:3: 3 fields instead of 12 \(, video-id"),
        ("swag/val.csv", SWAG_HEADER + SWAG_ROW.replace(",2\n", ",4\n"), r"val.csv:2: label 4 is not one of 0 to 3"),
        ("swag/val.csv", SWAG_HEADER + SWAG_ROW.replace(",2\n", ",x\n"), r"val.csv:2: label 'x' is not the number"),
        ("swag/val.csv", SWAG_HEADER + SWAG_ROW.replace(",2\n", ",\n"), "val.csv:2: the label is empty; write 0 to 3"),
        ("swag/val.csv", SWAG_HEADER + SWAG_ROW + '1,"x"y,\n', r"val.csv:3: not CSV \(.*\); mend the line"),
        ("dream/dev.json", "[\n[[], [\n", r"dev.json:\d: not JSON"),
        ("dream/dev.json", "{}", "dev.json: there are no questions in it"),
        ("dream/dev.json", "[[[], []]]", r"dev.json: \[0\]: not \[dialogue, questions, id\]"),
        ("dream/dev.json", '[[[], ["x"], "1"]]', r'dev.json: \[0\]\[1\]\[0\]: needs a "question"'),
        ("dream/dev.json", FILES["dream/dev.json"].replace('"answer": "Ten"', '"answer": 1'), "the answer 1 is not"),
        ("COPA/val.jsonl", json.dumps({**COPA, "question": "why"}), 'val.jsonl:1: COPA needs "premise", '),
        ("COPA/val.jsonl", json.dumps({**COPA, "choice2": 3}), "val.jsonl:1: COPA needs"),
        ("COPA/val.jsonl", json.dumps({**COPA, "label": 2}), "val.jsonl:1: label 2 is not one of 0 to 1"),
        (
            "COPA/val.jsonl",
            json.dumps({**COPA, "label": None}),
            "val.jsonl:1: label None is not the number of a choice",
        ),
    ],
)
def test_malformed_files(data, file, content, message):
    (data / file).write_text(content)
    with pytest.raises(DataError, match=message):
        tasks.find(file.split("/")[0].lower()).read(str(data), "dev")


def test_choices_of_the_users_own(tmp_path):
    path = tmp_path / "in.jsonl"
    records = [{"context": "A.", "choices": ["b", "c", "d"]}, {"context": "A.", "question": "Q", "choices": ["b", "c"]}]
    path.write_text("\n".join(map(json.dumps, records)))
    expected = [Choices("A.", "", ("b", "c", "d"), None), Choices("A.", "Q", ("b", "c"), None)]
    assert all(tasks.find(name).read_inputs(str(path)) == expected for name in ROWS)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"choices": ["a", "b"]}', r'in.jsonl:2: swag needs "context", a string, and "choices", a list'),
        ('{"context": "x", "choices": "ab"}', "in.jsonl:2: swag needs"),
        ('{"context": "x", "choices": ["a"]}', "in.jsonl:2: needs 2 to 100 choices, each a string; has 1"),
        ('{"context": "x", "choices": ["a", 2]}', "in.jsonl:2: needs 2 to 100 choices, each a string"),
        (json.dumps({"context": "x", "choices": ["a"] * 101}), r"in.jsonl:2: needs 2 to 100 choices, .* has 101"),
    ],
)
def test_malformed_inputs(tmp_path, line, message):
    (tmp_path / "in.jsonl").write_text(f'{{"context": "x", "choices": ["a", "b"]}}\n{line}\n')
    with pytest.raises(DataError, match=message):
        tasks.find("swag").read_inputs(str(tmp_path / "in.jsonl"))


def test_each_choice_is_a_sequence_with_the_context():
    rows = [Choices("abcd", "Q", ("x", "yz"), 1), Choices("a", "", ("b", "c", "d"), None)]
    first, second = tasks.find("copa").encode(rows, Letters(), 12)
    assert ["".join(map(chr, c["tokens"])) for c in first["choices"]] == ["\1abcd\2Qx\2", "\1abcd\2Qyz\2"]
    assert first["label"] == 1 and second["label"] is None
    assert ["".join(map(chr, c["tokens"])) for c in second["choices"]] == ["\1a\2b\2", "\1a\2c\2", "\1a\2d\2"]
    assert [c["types"].tolist() for c in second["choices"]] == [[0, 0, 0, 1, 1]] * 3
    assert all(len(c["tokens"]) == 6 for c in tasks.find("copa").encode(rows, Letters(), 6)[0]["choices"])


def test_choices_are_ranked_and_absent_ones_left_out():
    rows = [Choices("A.", "", ("b", "c", "d"), 2), Choices("A.", "", ("b", "c"), 1)]
    task, none = tasks.find("copa"), np.finfo(np.float32).min
    outputs = [np.log(np.array([0.3, 0.1, 0.6], np.float32)), np.array([1.0, 0.0, none], np.float32)]
    predictions = task.decode(outputs, [{}, {}], rows, {})
    assert [p["prediction"] for p in predictions] == [2, 0]
    assert [(e["choice"], e["text"]) for e in predictions[0]["best"]] == [(2, "d"), (0, "b"), (1, "c")]
    assert [e["probability"] for e in predictions[0]["best"]] == pytest.approx([0.6, 0.3, 0.1])
    assert len(predictions[1]["best"]) == 2
    assert task.score(predictions, rows) == {"accuracy": 0.5}
    header, *lines = task.table(predictions)
    assert header == ["index", "rank", "choice", "probability", "text"] and len(lines) == 5
    assert lines[3][:3] == [1, 1, 0] and lines[3][4] == "b"
