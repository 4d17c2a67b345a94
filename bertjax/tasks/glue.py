"""GLUE from its published files (`<folder>/train.tsv`, `dev.tsv`, `test.tsv`): the nine tasks and the diagnostic set.

The order of the labels is that of Hugging Face's and TFDS's data sets, as the TSV files spell labels out and have none:
heads and integer labels go from one program to the other unchanged. (google-research/bert has contradiction first.)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bertjax.contracts import Prediction, Row, Task
from bertjax.data import tfds
from bertjax.errors import DataError
from bertjax.tasks import _lines
from bertjax.tasks._sentences import File, SentenceTask

TFDS_SPLITS = {"train": "train", "dev": "validation", "test": "test"}
TSV = {split: File((f"{split}.tsv",)) for split in ("train", "dev", "test")}
COLA_HEADER = ("source", "label", "mark", "sentence")
INFERENCE = ("entailment", "neutral", "contradiction")
TWO_WAY = ("entailment", "not_entailment")


@dataclass(frozen=True, kw_only=True)
class GlueTask(SentenceTask):
    """A sentence task with a leaderboard; `submits` names the file that it takes of a split."""

    submits: Mapping[str, str]
    tfds_texts: tuple[str, ...] = ()  # where TFDS has other names than the files
    tfds_splits: Mapping[str, str] = field(default_factory=lambda: TFDS_SPLITS)

    def read(self, data_dir: str, split: str) -> list[Row]:
        """Rows of `split` from the published files, or from TFDS: `tfds:glue[/NAME][:VERSION][@DIR]`.

        There labels are integers in the order of `labels`, and -1 where they are not known.
        """
        if not data_dir.startswith(tfds.PREFIX):
            return super().read(data_dir, split)
        spec, _, folder = data_dir.partition("@")
        name, *version = spec.split(":")[1:]
        name = name if "/" in name else f"{name}/{self.name}"
        part = _lines.of_split(self.name, self.tfds_splits, split)
        examples, classes = tfds.examples(":".join(["tfds", name, *version, part]), folder)
        texts = self.tfds_texts or self.texts
        if not {*texts, "label"} <= examples[0].keys() or len(classes.get("label", ())) != len(self.labels):
            raise DataError(f"{data_dir} is not the data set of {self.name}; try tfds:glue/{self.name}")
        pairs = [([row[text] for text in texts], row["label"]) for row in examples]
        return [Row(t[0], t[1] if self.pair else None, None if label == -1 else label) for t, label in pairs]

    def submission(self, split: str, predictions: Sequence[Prediction]) -> dict[str, list[list[Any]]]:
        """Labels as the leaderboard spells them, numbers within its range."""
        if split not in self.submits:
            return {}
        answers = [prediction["prediction"] for prediction in predictions]
        if not self.labels:
            answers = [f"{min(max(answer, 0.0), 5.0):.3f}" for answer in answers]
        return {self.submits[split]: [["index", "prediction"], *map(list, enumerate(answers))]}


COLA = GlueTask(
    name="cola",
    source="Corpus of Linguistic Acceptability (Warstadt et al. 2018), research use",
    folder="CoLA",
    splits=TSV | {split: File((f"{split}.tsv",), COLA_HEADER) for split in ("train", "dev")},  # test.tsv has a header
    texts=("sentence",),
    label="label",
    labels=("0", "1"),
    metrics=("matthews",),
    submits={"test": "CoLA.tsv"},
)

SST2 = GlueTask(
    name="sst2",
    source="Stanford Sentiment Treebank (Socher et al. 2013), research use",
    folder="SST-2",
    splits=TSV,
    texts=("sentence",),
    label="label",
    labels=("0", "1"),
    metrics=("accuracy",),
    submits={"test": "SST-2.tsv"},
)

MRPC = GlueTask(
    name="mrpc",
    source="Microsoft Research Paraphrase Corpus (Dolan and Brockett 2005), research use",
    folder="MRPC",
    # Microsoft's test file has labels. Its train file is not read: it holds the rows of GLUE's dev.tsv too.
    splits=TSV | {"test": File(("msr_paraphrase_test.txt", "test.tsv"))},
    texts=("#1 String", "#2 String"),
    label="Quality",
    labels=("0", "1"),
    metrics=("accuracy", "f1"),  # not F1 first: two thirds are paraphrases, "always yes" has an F1 of 81
    submits={"test": "MRPC.tsv"},
    tfds_texts=("sentence1", "sentence2"),
)

STSB = GlueTask(
    name="stsb",
    source="Semantic Textual Similarity Benchmark (Cer et al. 2017), research use",
    folder="STS-B",
    splits=TSV,
    texts=("sentence1", "sentence2"),
    label="score",  # 0 to 5, used as it is
    metrics=("pearson", "spearman"),
    submits={"test": "STS-B.tsv"},
)

QQP = GlueTask(
    name="qqp",
    source="Quora Question Pairs (Iyer et al. 2017), research use",
    folder="QQP",
    splits=TSV,
    texts=("question1", "question2"),
    label="is_duplicate",
    labels=("0", "1"),
    metrics=("accuracy", "f1"),
    submits={"test": "QQP.tsv"},
    broken_rows=True,
)

MNLI = GlueTask(
    name="mnli",
    source="Multi-Genre Natural Language Inference (Williams et al. 2018), OANC and others",
    folder="MNLI",
    splits={
        "train": File(("train.tsv",)),
        "dev": File(("dev_matched.tsv",)),
        "dev_mismatched": File(("dev_mismatched.tsv",)),
        "test": File(("test_matched.tsv",)),
        "test_mismatched": File(("test_mismatched.tsv",)),
    },
    texts=("sentence1", "sentence2"),
    label="gold_label",
    labels=INFERENCE,
    metrics=("accuracy",),
    also=("dev_mismatched",),
    submits={"test": "MNLI-m.tsv", "test_mismatched": "MNLI-mm.tsv"},
    tfds_texts=("premise", "hypothesis"),
    tfds_splits={
        "train": "train",
        "dev": "validation_matched",
        "dev_mismatched": "validation_mismatched",
        "test": "test_matched",
        "test_mismatched": "test_mismatched",
    },
)

QNLI = GlueTask(
    name="qnli",
    source="SQuAD as sentence pairs (Rajpurkar et al. 2016, GLUE), CC BY-SA 4.0",
    folder="QNLI",
    splits=TSV,
    texts=("question", "sentence"),
    label="label",
    labels=TWO_WAY,
    metrics=("accuracy",),
    submits={"test": "QNLI.tsv"},
)

RTE = GlueTask(
    name="rte",
    source="Recognizing Textual Entailment 1, 2, 3 and 5 (Dagan et al. 2006 and others), research use",
    folder="RTE",
    splits=TSV,
    texts=("sentence1", "sentence2"),
    label="label",
    labels=TWO_WAY,
    metrics=("accuracy",),
    submits={"test": "RTE.tsv"},
)

WNLI = GlueTask(
    name="wnli",
    source="Winograd NLI (Levesque et al. 2011, GLUE), CC BY 4.0",
    folder="WNLI",
    splits=TSV,
    texts=("sentence1", "sentence2"),
    label="label",
    labels=("0", "1"),
    metrics=("accuracy",),
    submits={"test": "WNLI.tsv"},
)

AX = GlueTask(
    name="ax",
    source="GLUE's diagnostic set, for a model of mnli: `evaluate RUN --task ax` (Wang et al. 2018), research use",
    folder="diagnostic",
    splits={
        "dev": File(("diagnostic-full.tsv",), texts=("Premise", "Hypothesis"), label="Label"),
        "test": File(("diagnostic.tsv", "AX.tsv")),
    },
    texts=("sentence1", "sentence2"),
    label="label",
    labels=INFERENCE,
    metrics=("matthews",),
    submits={"test": "AX.tsv"},
    tfds_texts=("premise", "hypothesis"),
    tfds_splits={"test": "test"},
)

TASKS: dict[str, Task] = {task.name: task for task in (COLA, SST2, MRPC, STSB, QQP, MNLI, QNLI, RTE, WNLI, AX)}
SUITES = {"glue": tuple(name for name in TASKS if name != "ax")}
SUBMISSION = tuple(name for task in TASKS.values() if isinstance(task, GlueTask) for name in task.submits.values())
