"""The parsers of task files and of the files of runs, as targets.py has them."""

import csv
import gzip
import io
import json
from contextlib import suppress
from dataclasses import fields
from functools import partial

import numpy as np
from targets import VOCABULARY, Target, dumped, lines, tokenizer_files, use

from bertjax import doctor, lock, report, suite, tasks
from bertjax.config import Finetune, Pretrain
from bertjax.data.wordpiece import WordPiece
from bertjax.errors import UserError
from bertjax.jsonio import from_json, read_json, to_json
from bertjax.models import bert
from bertjax.plan import program
from bertjax.plan.hlo import Collective
from bertjax.saved import restored
from bertjax.tasks._columns import Columns, of_columns, with_labels
from bertjax.tasks._lines import lines as text_lines
from bertjax.train import manifest, steps
from bertjax.train.log import Writer
from bertjax.train.spent import PARTS

TOKENIZER = WordPiece(VOCABULARY, lowercase=True)
LENGTH = 64


def _use(task, rows):
    """What fine-tuning and prediction do with rows, up to the model: every row gets a prediction."""
    rows = rows[:50]
    sound = [row for row in rows if not task.fault(row)]
    if sound:
        task.encode(sound, TOKENIZER, LENGTH)
    examples = task.encode(rows, TOKENIZER, LENGTH)
    assert all(len(e["tokens"]) <= LENGTH for example in examples for e in example.get("choices", [example]))
    shapes = {
        "classify": lambda example: (max(1, len(task.labels)),),
        "span": lambda example: (LENGTH, 2),
        "tag": lambda example: (LENGTH, len(task.labels)),
        "choose": lambda example: (len(example.get("choices", ())),),
    }
    outputs = [np.zeros(shapes[task.head](example), np.float32) for example in examples]
    predictions = task.decode(outputs, examples, rows, {})
    assert len(predictions) == len(rows)
    "".join("\t".join(map(str, line)) + "\n" for line in task.table(predictions)).encode()
    for content in task.files(predictions, rows).values():
        json.dumps(content, ensure_ascii=False).encode()


def _read(folder, name, split="train"):
    task = tasks.find(name)
    _use(task, task.read(str(folder), split))


def _inputs(folder, name, file):
    task = tasks.find(name)
    _use(task, task.read_inputs(str(folder / file)))


def _columns(folder, file):
    columns = with_labels(Columns(texts=("text",), files=(file, file)), str(folder))
    task = of_columns(columns)
    _use(task, task.read(str(folder), "train"))


def _csv(*rows):
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def _tsv(*rows):
    return "".join("\t".join(row) + "\n" for row in rows).encode()


SPAM = _tsv(("text", "label"), ("the cat", "ham"), ('a "cat', "spam"), ("sat\u2028 the", "ham"))


def squad(unanswerable):
    """SQuAD's format, 2.0 or 1.1."""
    answer = {"text": "cat", "answer_start": 4}
    second = {"answers": [], "is_impossible": True} if unanswerable else {"answers": [answer, answer]}
    items = [{"id": "q1", "question": "who sat?", "answers": [answer]}, {"id": "q2", "question": "why?", **second}]
    paragraphs = [{"context": "the cat sat . a cat sat there " * 3, "qas": items}]
    return {"version": "2.0", "data": [{"title": "T", "paragraphs": paragraphs}]}


NER = b"-DOCSTART- -X- O O\n\nJohn NNP B-NP I-PER\nlives VBZ O O\n\nParis NNP B-NP I-LOC\n"
ENDINGS = ("a", "b", "c", "d")
SWAG = _csv(("sent1", "sent2", *(f"ending{n}" for n in range(4)), "label"), ("the cat", "it", *ENDINGS, "2"))
DREAM = [[["M: the cat", "W: sat"], [{"question": "who?", "choice": ["a", "b", "c"], "answer": "b"}], "id-1"]]
COPA = lines({"premise": "the cat sat", "choice1": "a", "choice2": "b", "question": "cause", "label": 0, "idx": 0})
SEMEVAL = b'1\t"The <e1>cat</e1> on the <e2>mat</e2> sat."\nCause-Effect(e1,e2)\nComment: x\n\n' * 2
CHEMPROT = lines({"text": "<< a >> b [[ c ]]", "label": "AGONIST", "metadata": []})
QUESTIONS = lines({"id": 3, "question": "who?", "context": "the cat sat"}, {"question": "why?", "context": "a"})
CHOICES = lines({"context": "the cat", "question": "who", "choices": ["a", "b", "c"]})
MNLI = _tsv(("index", "sentence1", "sentence2", "gold_label"), ("0", "the cat", "a cat", "neutral"))


def of_task(name: str, file: str, *seeds: bytes) -> Target:
    """The training file of a task."""
    return Target(file, partial(_read, name=name), lambda: list(seeds))


def of_inputs(name: str, file: str, *seeds: bytes) -> Target:
    """What `predict` reads."""
    return Target(file, partial(_inputs, name=name, file=file), lambda: list(seeds))


TASK_TARGETS = {
    "cola": of_task("cola", "train.tsv", _tsv(("s", "1", "", "the cat"), ("s", "0", "*", "cat the"))),
    "mnli": of_task("mnli", "train.tsv", MNLI),
    "qqp": of_task("qqp", "train.tsv", _tsv(("id", "question1", "question2", "is_duplicate"), ("0", "a", "b", "1"))),
    "stsb": of_task("stsb", "train.tsv", _tsv(("sentence1", "sentence2", "score"), ("the", "a", "4.5"))),
    "columns-tsv": Target("x.tsv", partial(_columns, file="x.tsv"), lambda: [SPAM]),
    "columns-csv": Target(
        "x.csv", partial(_columns, file="x.csv"), lambda: [_csv(("text", "label"), ('a "b"\nc', "1"), ("d", "2"))]
    ),
    "columns-jsonl": Target(
        "x.jsonl",
        partial(_columns, file="x.jsonl"),
        lambda: [lines({"text": "a", "label": 1}, {"text": "b", "label": 2}, {"text": "c", "label": True})],
    ),
    "columns-gz": Target(
        "x.tsv.gz",
        partial(_columns, file="x.tsv.gz"),
        lambda: [SPAM],
        wrap=gzip.compress,
    ),
    "squad": of_task("squad", "train-v1.1.json", *dumped(squad(False))()),
    "squad2": of_task("squad2", "train-v2.0.json", *dumped(squad(True))()),
    "conll2003": of_task("conll2003", "train.txt", NER),
    "swag": of_task("swag", "train.csv", SWAG),
    "dream": of_task("dream", "train.json", *dumped(DREAM)()),
    "copa": of_task("copa", "train.jsonl", COPA),
    "semeval2010": of_task("semeval2010", "TRAIN_FILE.TXT", SEMEVAL),
    "chemprot": of_task("chemprot", "train.jsonl", CHEMPROT),
    "predict-tsv": of_inputs("sms_spam", "p.tsv", b"text\nthe cat\na\n", b"the cat\n"),
    "predict-csv": of_inputs("mnli", "p.csv", _csv(("text_a", "text_b"), ("a, b", 'c"d'))),
    "predict-jsonl": of_inputs("sms_spam", "p.jsonl", lines({"text": "a"}, {"text": "b", "x": 1})),
    "predict-squad": of_inputs("squad2", "p.json", *dumped(squad(True), squad(False))()),
    "predict-questions": of_inputs("squad", "p.jsonl", QUESTIONS),
    "predict-words": of_inputs("conll2003", "p.jsonl", lines({"words": ["the", "cat"]}, {"words": ["a"]})),
    "predict-choices": of_inputs("swag", "p.jsonl", CHOICES),
    "predict-marked": of_inputs("semeval2010", "p.tsv", b"text\nThe <e1>cat</e1> on <e2>it</e2>.\n"),
    "embed": Target("p.txt", lambda folder: list(text_lines(folder / "p.txt")), lambda: [SPAM]),
}


# -- runs -------------------------------------------------------------------------------------------------------------


def _stored(folder, kind):
    config = read_json(folder / "config.json", "pretrain")
    assert to_json(from_json(kind, config, "config.json")) is not None


def _log(folder):
    """A run is reported, and taken up again."""
    with suppress(UserError):
        report.report([str(folder)], "")
    Writer(folder, total_steps=9, start_step=3, title="x").close()


def _reported(folder):
    report.report([str(folder)], "")
    doctor._begun(folder, "run")


def _program():
    one = Collective("all-reduce", ("data",), 2, 1, 1024, 4096, 4096)
    made = {f.name: 1 for f in fields(program.Program)}
    return {**made, "collectives": [one._asdict()]}


LOG = [
    {"step": step, "split": split, "loss": 2.5, "mlm_accuracy": 0.5, "nsp_accuracy": 0.5, "seconds": 1.0 * step}
    | {"spent": dict.fromkeys(PARTS, 0.25 * step)}
    for step in range(1, 5)
    for split in ("train", "dev")
]
SCORES = {
    "task": "sms_spam",
    "split": "dev",
    "metrics": {"f1": 0.5, "accuracy": 0.75},
    "encoder": "pretrained",
    "also": {},
    "baseline": {"tfidf": {"f1": 0.5, "accuracy": 0.7}},
    "data": {"train": {"rows": 10, "sha256": "0"}, "dev": {"rows": 3, "sha256": "1"}},
}
EXTRA = {
    "command": "finetune",
    "config": to_json(Finetune(task="sms_spam", source="a", out="b")),
    "model": to_json(bert.Config(vocab_size=14, width=8, layers=1, heads=1, mlp_width=8, max_length=16)),
    "tokenizer": TOKENIZER.to_json(),
    "data_hash": "0",
    "figures": {"f1": 0.5, "accuracy": 0.75},
    "window": {},
    "loader": [[0, 0, 0, 4]],
}
LIBRARY = {"kind": "library", "file": tokenizer_files()[-1]}
SUITE = {"tasks": {"cola": {"runs": ["cola/seed-0", "cola/seed-1"]}, "rte": {"runs": ["rte/seed-0"]}}}


def _restored(folder):
    """What every verb does with a checkpoint, up to its arrays."""
    found = restored(folder, 4, read_json(folder / "extra", "pretrain"), None)
    if found.command == "finetune":
        found.objective()
        found.task().decode([], [], [], found.figures)
    use(found.tokenizer)


def _suite(folder):
    for name, runs in suite._chosen(folder / "scores.json").items():
        assert all((folder / run).resolve().is_relative_to(folder.resolve()) for run in runs), name


def _manifest():
    files = {"encoder/a": [3, "f" * 32], "extra/metadata": [2, "0" * 32]}
    return {"version": manifest.VERSION, "checksum": manifest._of(files), "files": files}


def _verified(folder):
    """What is done with a checkpoint before it is restored."""
    steps.steps_of(folder)
    manifest.faults(folder, {"encoder", "extra", "metrics"})
    manifest.parts(folder)


def _scored(folder):
    assert steps.Steps(folder).by_score() == [4]


BESIDE = {"config.json": json.dumps({"command": "finetune"}).encode()}

RUN_TARGETS = {
    "pretrain-config": Target("config.json", partial(_stored, kind=Pretrain), dumped(to_json(Pretrain()))),
    "finetune-config": Target(
        "config.json", partial(_stored, kind=Finetune), dumped(to_json(Finetune(task="sms_spam", source="a", out="b")))
    ),
    "metrics.jsonl": Target(
        "metrics.jsonl", _log, lambda: [lines(*LOG)], lambda: {"config.json": b'{"command": "pretrain"}'}
    ),
    "run-config": Target(
        "config.json",
        _reported,
        dumped({"command": "pretrain", "config": {}}, {"command": "finetune", "config": {}}),
        lambda: {"metrics.jsonl": lines(*LOG), "scores.json": json.dumps(SCORES).encode()},
    ),
    "scores.json": Target("scores.json", _reported, dumped(SCORES), lambda: BESIDE),
    "one-of-a-suite": Target("scores.json", suite._metrics, dumped({**SCORES, "also": {"x": {"f1": 0.5}}})),
    "suite": Target("scores.json", _suite, dumped(SUITE)),
    "extra": Target("extra", _restored, dumped(EXTRA, {**EXTRA, "tokenizer": LIBRARY})),
    "run.lock": Target(
        "run.lock", lock.holder, dumped({"host": "a", "pid": 3, "machine": "b", "id": "c", "since": "d"})
    ),
    "manifest.json": Target("manifest.json", _verified, dumped(_manifest()), lambda: {"extra/metadata": b"{}"}),
    "score": Target("checkpoints/4/metrics/metrics", _scored, dumped({"phase": 1, "score": -2.5})),
    "planned": Target("p.json", lambda folder: program._read(folder / "p.json"), dumped(_program())),
}
