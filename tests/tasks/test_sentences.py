"""Reading, encoding and scoring of tasks that lie in TSV files."""

import errno
import gzip
from pathlib import Path

import numpy as np
import pytest
from disks import refuse_to_read
from letters import Letters

from bertjax import tasks
from bertjax.contracts import Row
from bertjax.errors import ConfigError, DataError, StorageError
from bertjax.registry import names

SAMPLE = Path(__file__).parents[2] / "sample_data"
STSB_HEADER = b"index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
FILES = {
    "cola/dev.tsv": b"gj04\t1\t\tThe sailors rode.\ngj04\t0\t*\tThe sailors rided.\n",
    "cola/test.tsv": b"index\tsentence\n0\tBill whistled past the house.\n",
    "sst2/dev.tsv": b"sentence\tlabel\nit 's charming . \t1\nbleak \t0\n",
    "mrpc/dev.tsv": b"\xef\xbb\xbfQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n"
    b'1\t1\t2\tHe said "no\t"He said" no\r\n0\t3\t4\tA "b" c.\tD.\r\n',
    "mrpc/test.tsv": b"index\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t1\t2\tA.\tB.\n",
    "stsb/dev.tsv": STSB_HEADER + b"0\tg\tf\ty\t0\tn\tn\tA plane.\tAn air plane.\t5.000\n",
    "rte/dev.tsv": b"index\tsentence1\tsentence2\tlabel\n0\tA.\tB.\tnot_entailment\n1\tA and B.\tB.\tentailment\n",
    "nsmc/dev.tsv": "id\tdocument\tlabel\n1\t굳 ㅋ\t1\n2\t\t0\n".encode(),
    "korsts/sts-dev.tsv": "genre\tfilename\tyear\tid\tscore\tsentence1\tsentence2\n"
    "g\tf\ty\t0\t4.750\t비행기.\t비행기가.\n".encode(),
    "sms_spam/dev.tsv": 'ham\tok \u2028 "lar\nspam\tWIN £100\x0b now\n\n\n'.encode(),
}
FOLDERS = {"cola": "CoLA", "sst2": "SST-2", "mrpc": "MRPC", "stsb": "STS-B", "rte": "RTE", "sms_spam": "sms_spam"}
FOLDERS |= {"nsmc": "nsmc", "korsts": "KorSTS"}


@pytest.fixture
def data(tmp_path):
    """A folder with small files of every task, as they are published."""
    for name, content in FILES.items():
        task, file = name.split("/")
        path = tmp_path / FOLDERS[task] / file
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("cola", [Row("The sailors rode.", None, 1), Row("The sailors rided.", None, 0)]),
        ("sst2", [Row("it 's charming . ", None, 1), Row("bleak ", None, 0)]),
        ("mrpc", [Row('He said "no', '"He said" no', 1), Row('A "b" c.', "D.", 0)]),
        ("stsb", [Row("A plane.", "An air plane.", 5.0)]),
        ("rte", [Row("A.", "B.", 1), Row("A and B.", "B.", 0)]),
        ("nsmc", [Row("굳 ㅋ", None, 1), Row("", None, 0)]),
        ("korsts", [Row("비행기.", "비행기가.", 4.75)]),
        ("sms_spam", [Row('ok \u2028 "lar', None, 0), Row("WIN £100\x0b now", None, 1)]),
    ],
)
def test_published_files_are_read_from_the_common_or_the_tasks_own_folder(data, name, rows):
    task = tasks.find(name)
    assert task.read(str(data), "dev") == rows
    assert task.read(str(data / FOLDERS[name]), "dev") == rows
    assert task.pair == (rows[0].text_b is not None)


def test_a_test_set_may_lack_labels(data):
    assert tasks.find("cola").read(str(data), "test") == [Row("Bill whistled past the house.", None, None)]
    assert tasks.find("mrpc").read(str(data), "test") == [Row("A.", "B.", None)]
    (data / "MRPC" / "msr_paraphrase_test.txt").write_bytes(FILES["mrpc/dev.tsv"])
    assert [row.label for row in tasks.find("mrpc").read(str(data), "test")] == [1, 0]


def test_nsmc_as_published_is_scored_on_its_test_part(data):
    (data / "nsmc/dev.tsv").rename(data / "nsmc/ratings_test.txt")
    assert tasks.find("nsmc").read(str(data), "dev") == tasks.find("nsmc").read(str(data), "test") != []


def test_gz_beside_the_plain_name(data):
    plain = data / "RTE" / "dev.tsv"
    plain.with_name("dev.tsv.gz").write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    assert len(tasks.find("rte").read(str(data), "dev")) == 2
    plain.with_name("dev.tsv.gz").write_bytes(gzip.compress(b"x" * 99)[:20])
    with pytest.raises(DataError, match=r"dev.tsv.gz: cannot be read .*download it again"):
        tasks.find("rte").read(str(data), "dev")


def test_a_disk_that_cannot_be_read_is_no_bad_file(data, monkeypatch):
    refuse_to_read(monkeypatch, "dev.tsv", errno.EIO)
    with pytest.raises(StorageError, match=r"dev.tsv: Input/output error; check the disk"):
        tasks.find("rte").read(str(data), "dev")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("sst2", b"text\tlabel\nfine\t1\n", r"dev.tsv:1: sst2 needs a column 'sentence', here are 'text', 'label'; is"),
        ("sst2", b"sentence\nfine\n", r"dev.tsv:1: sst2 needs a column 'label'"),
        (
            "sst2",
            b"sentence\tlabel\nfine\t1\ntwo\ttabs\t1\n",
            r"dev.tsv:3: 3 fields instead of 2 \(sentence, label\); w",
        ),
        ("sst2", b"sentence\tlabel\nfine\t1\n\nbad\t0\n", r"dev.tsv:3: 1 fields instead of 2"),
        ("sst2", b"sentence\tlabel\nfine\t2\n", r"dev.tsv:2: label '2' is not one of 0, 1; correct the row"),
        ("sst2", b"sentence\tlabel\nfine\t\n", r"dev.tsv:2: label '' is not one of"),
        ("sst2", b"sentence\tlabel\n", r"dev.tsv: only a header, no rows"),
        ("sst2", b"\xef\xbb\xbf\n\n", r"dev.tsv: the file is empty"),
        ("sms_spam", b"ham\tok\nspam\tcaf\xe9\n", r"dev.tsv:2: byte 9 of the line is not UTF-8; .*iconv -f latin1"),
        ("sms_spam", b"ham\tok\nhamm\tok\n", r"dev.tsv:2: label 'hamm' is not one of ham, spam"),
        ("stsb", STSB_HEADER + b"0\tg\tf\ty\t0\tn\tn\tA.\tB.\thigh\n", r"dev.tsv:2: score 'high' is not a number"),
        ("stsb", STSB_HEADER + b"0\tg\tf\ty\t0\tn\tn\tA.\tB.\tnan\n", r"dev.tsv:2: score 'nan' is not a number"),
        ("cola", b"index\tsentence\n0\tOne.\n", r"dev.tsv:1: 2 fields instead of 4 \(source, label, mark, sentence\)"),
    ],
)
def test_malformed_files_are_told_by_file_line_and_cure(data, name, content, message):
    (data / FOLDERS[name] / "dev.tsv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        tasks.find(name).read(str(data), "dev")


def test_a_missing_file_is_told_with_the_places_that_were_searched(tmp_path):
    with pytest.raises(DataError) as error:
        tasks.find("cola").read(str(tmp_path), "dev")
    assert f"{tmp_path}/CoLA/dev.tsv, {tmp_path}/dev.tsv (nor with .gz)" in str(error.value)
    with pytest.raises(ConfigError, match=r"cola has no split 'tets'; did you mean 'test'\?"):
        tasks.find("cola").read(str(tmp_path), "tets")


def test_encode_gives_ids_types_and_label(data):
    single, pair = tasks.find("sst2"), tasks.find("rte")
    (example,) = single.encode([Row("ab", None, 1)], Letters(), 8)
    assert example["tokens"].tolist() == [1, 97, 98, 2]
    assert example["types"].tolist() == [0, 0, 0, 0] and example["label"] == 1
    (example,) = pair.encode([Row("a", "bc", None)], Letters(), 5)
    assert example["tokens"].tolist() == [1, 97, 2, 98, 99] and example["types"].tolist() == [0, 0, 0, 1, 1]
    assert "label" not in example


def scores(name, logits, labels):
    task, rows = tasks.find(name), [Row("", None, label) for label in labels]
    return task.score(task.decode(list(np.array(logits, np.float32)), [{}] * len(rows), rows, {}), rows)


def test_score_takes_the_best_class_or_the_number():
    logits = [[0.1, 0.2], [2.0, 1.0], [-1.0, -2.0], [0.0, 3.0]]  # classes 1, 0, 0, 1
    assert scores("sms_spam", logits, (1, 1, 0, 0)) == {"f1": 0.5, "accuracy": 0.5}
    assert scores("cola", logits, (1, 1, 0, 0)) == {"matthews": 0.0}
    assert scores("stsb", [[1.0], [2.0], [3.0]], (0.0, 2.5, 5.0)) == pytest.approx({"pearson": 1.0, "spearman": 1.0})
    with pytest.raises(DataError, match="rte: these rows have no labels"):
        scores("rte", [[0.0, 1.0]], [None])


def test_a_prediction_has_the_probability_of_each_label():
    task, rows = tasks.find("rte"), [Row("", "", None)]
    (prediction,) = task.decode([np.array([1.0, 1.0 + np.log(3)], np.float32)], [{}], rows, {})
    assert prediction["prediction"] == "not_entailment"
    assert prediction["probabilities"] == pytest.approx({"entailment": 0.25, "not_entailment": 0.75})
    assert task.table([prediction])[0] == ["index", "prediction", "entailment", "not_entailment"]
    assert task.table([prediction])[1][:2] == [0, "not_entailment"]
    assert tasks.find("stsb").table([{"prediction": 2.5}]) == [["index", "prediction"], [0, 2.5]]


def test_every_row_of_text_can_be_trained_on():
    task = tasks.find("rte")
    assert task.fault(Row("a", "b", 0)) == "" and task.tune([], []) == {} and task.files([], []) == {}


def test_the_order_of_the_labels_and_the_first_metric_are_a_contract():
    assert {name: (task.labels, task.metrics) for name, task in tasks.all_tasks().items()} == {
        "cola": (("0", "1"), ("matthews",)),
        "sst2": (("0", "1"), ("accuracy",)),
        "mrpc": (("0", "1"), ("accuracy", "f1")),
        "stsb": ((), ("pearson", "spearman")),
        "qqp": (("0", "1"), ("accuracy", "f1")),
        "mnli": (("entailment", "neutral", "contradiction"), ("accuracy",)),  # as in Hugging Face's and TFDS's data
        "qnli": (("entailment", "not_entailment"), ("accuracy",)),
        "rte": (("entailment", "not_entailment"), ("accuracy",)),
        "wnli": (("0", "1"), ("accuracy",)),
        "ax": (("entailment", "neutral", "contradiction"), ("matthews",)),
        "sms_spam": (("ham", "spam"), ("f1", "accuracy")),
        "text": ((), ("accuracy", "macro_f1")),  # the labels are those of the user's file
        "nsmc": (("0", "1"), ("accuracy",)),
        "korsts": ((), ("spearman", "pearson")),
        "conll2003": (
            ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-MISC", "I-MISC"),
            ("f1", "precision", "recall"),
        ),
        "swag": ((), ("accuracy",)),
        "dream": ((), ("accuracy",)),
        "copa": ((), ("accuracy",)),
        "semeval2010": (
            (
                "Other",
                *("Cause-Effect(e1,e2)", "Cause-Effect(e2,e1)"),
                *("Component-Whole(e1,e2)", "Component-Whole(e2,e1)"),
                *("Content-Container(e1,e2)", "Content-Container(e2,e1)"),
                *("Entity-Destination(e1,e2)", "Entity-Destination(e2,e1)"),
                *("Entity-Origin(e1,e2)", "Entity-Origin(e2,e1)"),
                *("Instrument-Agency(e1,e2)", "Instrument-Agency(e2,e1)"),
                *("Member-Collection(e1,e2)", "Member-Collection(e2,e1)"),
                *("Message-Topic(e1,e2)", "Message-Topic(e2,e1)"),
                *("Product-Producer(e1,e2)", "Product-Producer(e2,e1)"),
            ),
            ("macro_f1", "accuracy"),
        ),
        "chemprot": (
            (
                *("ACTIVATOR", "AGONIST", "AGONIST-ACTIVATOR", "AGONIST-INHIBITOR", "ANTAGONIST", "DOWNREGULATOR"),
                *("INDIRECT-DOWNREGULATOR", "INDIRECT-UPREGULATOR", "INHIBITOR", "PRODUCT-OF", "SUBSTRATE"),
                *("SUBSTRATE_PRODUCT-OF", "UPREGULATOR"),
            ),
            ("micro_f1",),
        ),
        "squad": ((), ("f1", "exact_match")),
        "squad2": ((), ("f1", "exact_match", "has_answer_f1", "no_answer_f1")),
    }


def test_find_by_name_or_by_module():
    assert tasks.find("cola") is tasks.all_tasks()["cola"]
    assert tasks.find("bertjax.tasks.glue.cola") is tasks.find("cola")
    assert names("tasks") == ["choice", "glue", "korean", "ner", "relation", "squad", "text"]
    with pytest.raises(ConfigError, match=r"no task 'sms_spm'; did you mean 'sms_spam'\?"):
        tasks.find("sms_spm")
    with pytest.raises(ConfigError, match=r"glue\.colla'; did you mean 'cola'\?"):
        tasks.find("bertjax.tasks.glue.colla")


def test_settings_are_numbers_that_the_task_has():
    squad = tasks.with_settings(tasks.find("squad2"), ("stride=64", "max_answer=5"))
    assert (squad.stride, squad.max_answer, squad.n_best, squad.name) == (64, 5, 20, "squad2")
    entities = tasks.find("conll2003")
    assert tasks.with_settings(entities, ("stride=3",)).stride == 3 and entities.stride == 128
    for name, setting, message in (
        ("squad", "strid=3", "squad has no setting 'strid'; did you mean 'stride'"),
        (
            "squad",
            "unanswerable=1",
            "squad has no setting 'unanswerable'; choose from: max_answer, ",
        ),
        ("cola", "stride=3", "cola has no setting 'stride' and no other"),
        ("squad", "stride=0", "squad: 'stride=0' needs a number from 1 to 999999, as in stride=128"),
        ("squad", "stride", "'stride' needs a number"),
        ("squad", "stride=2.5", "'stride=2.5' needs a number"),
    ):
        with pytest.raises(ConfigError, match=message):
            tasks.with_settings(tasks.find(name), (setting,))


def test_the_messages_that_ship():
    train, dev = (tasks.find("sms_spam").read(str(SAMPLE), split) for split in ("train", "dev"))
    assert [(len(rows), sum(row.label for row in rows)) for rows in (train, dev)] == [(3934, 512), (548, 74)]
    assert not {row.text_a for row in train} & {row.text_a for row in dev}


def test_the_novels_that_ship():
    chapters = gzip.decompress((SAMPLE / "novels.txt.gz").read_bytes()).decode("ascii").strip().split("\n\n")
    assert len(chapters) == 28 and min(len(chapter.split()) for chapter in chapters) > 1000


def test_the_unlabelled_messages_that_ship_are_those_of_train():
    messages = gzip.decompress((SAMPLE / "messages.txt.gz").read_bytes()).decode().split("\n\n")
    assert messages == [*(row.text_a for row in tasks.find("sms_spam").read(str(SAMPLE), "train")), ""]
