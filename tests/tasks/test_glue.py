"""The tasks of GLUE that lie in no folder of ours: small files made exactly as they are published."""

import numpy as np
import pytest

from bertjax import tasks
from bertjax.contracts import Row
from bertjax.errors import DataError

PARSES = "( ( A ) B )\t( B )\t(ROOT A)\t(ROOT B)"
PARSED = "sentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\tsentence2_parse"
MNLI = f"index\tpromptID\tpairID\tgenre\t{PARSED}\tsentence1\tsentence2"
FIVE = "label1\tlabel2\tlabel3\tlabel4\tlabel5"
DIAGNOSTIC = "Lexical Semantics\tPredicate-Argument Structure\tLogic\tKnowledge\tDomain\tPremise\tHypothesis\tLabel\n"
FILES = {
    "QQP/train.tsv": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
    '133273\t213221\t213222\tHow is "life"?\t"How?\t1\n1\t2\t3\tno tabs here\n402555\t5\t6\tA?\tB?\t0\n',
    "QQP/test.tsv": "id\tquestion1\tquestion2\n0\tA?\tB?\n",
    "MNLI/train.tsv": f"{MNLI}\tlabel1\tgold_label\n0\t31193\t31193n\tgovernment\t{PARSES}\tA.\tB.\tneutral\tneutral\n",
    "MNLI/dev_matched.tsv": f"{MNLI}\t{FIVE}\tgold_label\n"
    f"0\t63735\t63735n\tslate\t{PARSES}\tNew.\tOld.{5 * chr(9)}neutral\tcontradiction\n"
    f"1\t63735\t63735n\tslate\t{PARSES}\tNew.\tNew.{5 * chr(9)}neutral\tentailment\n",
    "MNLI/dev_mismatched.tsv": f"{MNLI}\t{FIVE}\tgold_label\n"
    f"0\t75290\t75290c\tletters\t{PARSES}\tYour gift.\tHundreds.{5 * chr(9)}neutral\tneutral\n",
    "MNLI/test_matched.tsv": f"{MNLI}\n0\t31493\t31493\ttravel\t{PARSES}\tC.\tD.\n",
    "MNLI/test_mismatched.tsv": f"{MNLI}\n0\t31493\t31493\tverbatim\t{PARSES}\tE.\tF.\n",
    "QNLI/dev.tsv": "index\tquestion\tsentence\tlabel\n0\tWhat?\tThis.\tentailment\n1\tWho?\tIt.\tnot_entailment\n",
    "QNLI/test.tsv": "index\tquestion\tsentence\n0\tWhat?\tThis.\n",
    "WNLI/dev.tsv": "index\tsentence1\tsentence2\tlabel\n0\tThe drain is clogged.\tThe hair is.\t0\n",
    "diagnostic/diagnostic-full.tsv": f"{DIAGNOSTIC}Negation\t\t\t\tNews\tThe cat sat.\tIt did not.\tcontradiction\n",
    "diagnostic/diagnostic.tsv": "index\tsentence1\tsentence2\n0\tThe cat sat.\tIt did not.\n",
}


@pytest.fixture
def glue(tmp_path):
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    return str(tmp_path)


@pytest.mark.parametrize(
    ("name", "split", "rows"),
    [
        ("qqp", "train", [Row('How is "life"?', '"How?', 1), Row("A?", "B?", 0)]),
        ("qqp", "test", [Row("A?", "B?", None)]),
        ("mnli", "train", [Row("A.", "B.", 1)]),
        ("mnli", "dev", [Row("New.", "Old.", 2), Row("New.", "New.", 0)]),
        ("mnli", "dev_mismatched", [Row("Your gift.", "Hundreds.", 1)]),
        ("mnli", "test", [Row("C.", "D.", None)]),
        ("mnli", "test_mismatched", [Row("E.", "F.", None)]),
        ("qnli", "dev", [Row("What?", "This.", 0), Row("Who?", "It.", 1)]),
        ("qnli", "test", [Row("What?", "This.", None)]),
        ("wnli", "dev", [Row("The drain is clogged.", "The hair is.", 0)]),
        ("ax", "dev", [Row("The cat sat.", "It did not.", 2)]),
        ("ax", "test", [Row("The cat sat.", "It did not.", None)]),
    ],
)
def test_published_files(glue, name, split, rows):
    assert tasks.find(name).read(glue, split) == rows


def test_broken_rows_of_qqp_are_counted_and_listed_those_of_others_refused(glue, tmp_path, capsys):
    tasks.find("qqp").read(glue, "train")
    assert f"qqp: 1 broken rows of {tmp_path}/QQP/train.tsv are left out; lines 3" in capsys.readouterr().err
    (tmp_path / "QQP/train.tsv").write_text("question1\tquestion2\tis_duplicate\nA?\tB?\n")
    with pytest.raises(DataError, match=r"train.tsv:2: 2 fields instead of 3"):  # not one row is whole
        tasks.find("qqp").read(glue, "train")
    (tmp_path / "WNLI/dev.tsv").write_text(FILES["WNLI/dev.tsv"] + "1\tA.\t0\n")
    with pytest.raises(DataError, match=r"dev.tsv:3: 3 fields instead of 4"):
        tasks.find("wnli").read(glue, "dev")


def test_labels_are_in_the_order_of_the_integers_in_hugging_faces_and_tfdss_data():
    three, two = ("entailment", "neutral", "contradiction"), ("entailment", "not_entailment")
    assert {name: tasks.find(name).labels for name in ("mnli", "ax", "qnli", "rte")} == {
        "mnli": three,
        "ax": three,
        "qnli": two,
        "rte": two,
    }
    task, logits = tasks.find("mnli"), np.eye(3, dtype=np.float32)
    predictions = task.decode(list(logits), [{}] * 3, [Row("", "", None)] * 3, {})
    assert [prediction["prediction"] for prediction in predictions] == list(three)


def test_submissions_are_what_the_leaderboard_takes():
    def lines(name, split, answers):
        return tasks.find(name).submission(split, [{"prediction": answer} for answer in answers])

    assert lines("cola", "test", "01") == {"CoLA.tsv": [["index", "prediction"], [0, "0"], [1, "1"]]}
    assert lines("cola", "dev", "01") == {}
    assert lines("stsb", "test", [-0.2, 1.23456, 5.7]) == {
        "STS-B.tsv": [["index", "prediction"], [0, "0.000"], [1, "1.235"], [2, "5.000"]]
    }
    assert lines("qnli", "test", ["not_entailment"])["QNLI.tsv"][1] == [0, "not_entailment"]
    names = {
        (name, split): file
        for name, task in tasks.all_tasks().items()
        for split, file in getattr(task, "submits", {}).items()
    }
    assert names.pop(("mnli", "test")) == "MNLI-m.tsv" and names.pop(("mnli", "test_mismatched")) == "MNLI-mm.tsv"
    assert names == {
        (name, "test"): f"{file}.tsv"
        for name, file in zip(
            ("cola", "sst2", "mrpc", "stsb", "qqp", "qnli", "rte", "wnli", "ax"),
            ("CoLA", "SST-2", "MRPC", "STS-B", "QQP", "QNLI", "RTE", "WNLI", "AX"),
            strict=True,
        )
    }
