"""Reading, encoding and scoring of relations between two marked entities."""

import json

import numpy as np
import pytest
from letters import Letters

from bertjax import tasks
from bertjax.errors import DataError
from bertjax.tasks.relation import Relation, directed_macro_f1

SEMEVAL = (
    '1\t"The <e1>child</e1> lay in the <e2>cradle</e2>."\r\nContent-Container(e1,e2)\r\nComment: of e1 in e2\r\n\r\n'
    '2\t"<e1>A</e1> "b" <e2>C</e2>"\r\nOther\r\nComment:\r\n\r\n'
)
CHILD = Relation(("The ", "child", " lay in the ", "cradle", "."), False, 5)
OTHER = Relation(("", "A", ' "b" ', "C", ""), False, 0)
CHEMPROT = {"text": "At 4 h << Ang II >> rose; [[ valsartan ]] >> x.", "label": "INHIBITOR", "metadata": []}


@pytest.fixture
def semeval(tmp_path):
    """The task, and a function that reads a training file of this content."""

    def read(content, split="train", name="TRAIN_FILE.TXT"):
        (tmp_path / name).write_bytes(content.encode())
        return tasks.find("semeval2010").read(str(tmp_path), split)

    return read


def test_semeval(semeval):
    assert semeval(SEMEVAL) == [CHILD, OTHER] == semeval(SEMEVAL, "test", "TEST_FILE_FULL.TXT")


def test_the_last_tenth_of_the_training_file_is_dev(semeval):
    assert len(semeval(SEMEVAL * 10)) == 18 and semeval(SEMEVAL * 10, "dev") == [CHILD, OTHER]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Other", "Othr", r"TRAIN_FILE.TXT:6: there is no relation 'Othr'; did you mean 'Other'\?"),
        ("Other", "Other\r\nOther", r"TRAIN_FILE.TXT:7: no numbered sentence .* nor a relation: 'Other'"),
        ("1\t", "", r"TRAIN_FILE.TXT:1: no numbered sentence"),
        ("</e1> lay", " lay", r"TRAIN_FILE.TXT:2: no entity between '<e1>' and '</e1>' in 'The <e1>child lay"),
        ("<e2>cradle", "cradle", r"TRAIN_FILE.TXT:2: no entity between '<e2>'"),
        ("child</e1>", "child", r"no entity between '<e1>'"),
        (
            "</e1> lay in the <e2>cradle</e2>",
            " <e2>in</e2> it</e1>",
            "FILE.TXT:2: one entity is inside the other",
        ),
    ],
)
def test_malformed_semeval(semeval, old, new, message):
    with pytest.raises(DataError, match=message):
        semeval(SEMEVAL.replace(old, new))


def test_a_file_without_sentences(semeval):
    with pytest.raises(DataError, match=r"TRAIN_FILE.TXT: there are no numbered sentences"):
        semeval("Comment: none\n")


def test_chemprot(tmp_path):
    (tmp_path / "chemprot").mkdir()
    file = tmp_path / "chemprot" / "dev.jsonl"
    file.write_text(json.dumps(CHEMPROT) + "\n" + json.dumps({**CHEMPROT, "text": "[[ b ]] by << a >>"}))
    expected = [
        Relation(("At 4 h ", "Ang II", " rose; ", "valsartan", " >> x."), False, 8),
        Relation(("", "b", " by ", "a", ""), True, 8),
    ]
    assert tasks.find("chemprot").read(str(tmp_path), "dev") == expected
    for bad, message in (
        ({"text": 3}, 'dev.jsonl:2: chemprot needs "text"'),
        ({"label": "INHIBITR"}, "dev.jsonl:2: there is no relation 'INHIBITR'; did you mean 'INHIBITOR'"),
        ({"text": "<< a >> b"}, r"dev.jsonl:2: no entity between '\[\[ ' and ' \]\]' in '<< a >> b'"),
    ):
        file.write_text(json.dumps(CHEMPROT) + "\n" + json.dumps({**CHEMPROT, **bad}))
        with pytest.raises(DataError, match=message):
            tasks.find("chemprot").read(str(tmp_path), "dev")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("in.tsv", "text\nThe <e1>child</e1> lay in the <e2>cradle</e2>.\n"),
        ("in.csv", 'id,text\n1,"The <e1>child</e1> lay in the <e2>cradle</e2>."\n'),
        ("in.jsonl", json.dumps({"text": "The <e1>child</e1> lay in the <e2>cradle</e2>.", "label": "x"})),
        ("in.txt", SEMEVAL.split("2\t")[0]),
        ("in.txt", SEMEVAL.split("Content")[0]),
    ],
)
def test_inputs(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert tasks.find("semeval2010").read_inputs(str(tmp_path / name)) == [CHILD._replace(label=None)]


def test_inputs_without_marks(tmp_path):
    (tmp_path / "in.tsv").write_text("text\nThe child lay.\n")
    with pytest.raises(DataError, match=r"in.tsv:2: no entity between '<e1>' and '</e1>' in 'The child lay.'; mark"):
        tasks.find("semeval2010").read_inputs(str(tmp_path / "in.tsv"))


def shown(row, length=99):
    (example,) = tasks.find("semeval2010").encode([row], Letters(), length)
    assert len(example["tokens"]) <= length
    return "".join(map(chr, example["tokens"]))


def test_entities_stand_between_marks():
    assert shown(CHILD) == "\1The$child$layinthe#cradle#.\2"
    assert shown(OTHER) == '\1$A$"b"#C#\2'
    assert shown(OTHER._replace(swapped=True)) == '\1#A#"b"$C$\2'  # $ is the first entity, wherever it stands
    examples = tasks.find("semeval2010").encode([CHILD, CHILD._replace(label=None)], Letters(), 99)
    assert examples[0]["label"] == 5 and "label" not in examples[1]


def test_parts_but_the_first_carry_a_space():
    seen = []

    class Spy(Letters):
        def encode_batch(self, texts):
            seen.extend(texts)
            return super().encode_batch(texts)

    tasks.find("semeval2010").encode([CHILD, OTHER], Spy(), 99)
    assert seen == ["The", " $ child $", " lay in the", " # cradle #", " .", "", " $ A $", ' "b"', " # C #", ""]


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (24, "\1efghij$A$klmno#B#pqrst\2"),  # 22 places, 11 of them for entities and between
        (15, "\1j$A$klmno#B#p\2"),
        (12, "\1$A$klno#B#\2"),
        (8, "\1$A$#B#\2"),
    ],
)
def test_long_sentences_lose_what_is_farthest_from_the_entities(length, expected):
    row = Relation(("abcdefghij", "A", "klmno", "B", "pqrstuvwxyz"), False, None)
    assert shown(row, length) == expected


def test_macro_f1_counts_direction_and_leaves_out_other():
    truths = ["Cause-Effect(e1,e2)"] * 3 + ["Message-Topic(e1,e2)"] * 2 + ["Other"] * 2
    answers = [
        "Cause-Effect(e1,e2)",
        "Cause-Effect(e2,e1)",  # the wrong direction
        "Other",
        "Message-Topic(e1,e2)",
        "Message-Topic(e1,e2)",
        "Message-Topic(e2,e1)",
        "Entity-Origin(e1,e2)",  # a relation that no truth has is not averaged
    ]
    # Cause-Effect: 1 right of 2 answered, of 3 there; Message-Topic: 2 right of 3 answered, of 2 there
    assert directed_macro_f1(answers, truths) == pytest.approx((2 / 5 + 4 / 5) / 2)
    assert directed_macro_f1(["Other"], ["Other"]) == 0


def test_scores():
    task = tasks.find("semeval2010")
    logits = np.zeros((2, 19), np.float32)
    logits[0, 6] = logits[1, 0] = 1
    predictions = task.decode(list(logits), [{}, {}], [CHILD, OTHER], {})
    assert [p["prediction"] for p in predictions] == ["Content-Container(e2,e1)", "Other"]
    assert task.score(predictions, [CHILD, OTHER]) == {"macro_f1": 0, "accuracy": 0.5}
    with pytest.raises(DataError, match="semeval2010: these rows have no labels"):
        task.score(predictions, [CHILD, OTHER._replace(label=None)])
    chemprot = tasks.find("chemprot")
    assert chemprot.score([{"prediction": "INHIBITOR"}] * 2, [CHILD._replace(label=8), OTHER]) == {"micro_f1": 0.5}
