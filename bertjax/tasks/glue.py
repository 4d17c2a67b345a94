"""GLUE from its published files (`<folder>/train.tsv`, `dev.tsv`, `test.tsv`): CoLA, SST-2, MRPC, STS-B, RTE."""

from bertjax.contracts import Task
from bertjax.tasks._sentences import File, SentenceTask

TSV = {split: File((f"{split}.tsv",)) for split in ("train", "dev", "test")}
COLA_HEADER = ("source", "label", "mark", "sentence")

COLA = SentenceTask(
    name="cola",
    source="Corpus of Linguistic Acceptability (Warstadt et al. 2018), research use",
    folder="CoLA",
    splits=TSV | {split: File((f"{split}.tsv",), COLA_HEADER) for split in ("train", "dev")},  # test.tsv has a header
    texts=("sentence",),
    label="label",
    labels=("0", "1"),
    metrics=("matthews",),
)

SST2 = SentenceTask(
    name="sst2",
    source="Stanford Sentiment Treebank (Socher et al. 2013), research use",
    folder="SST-2",
    splits=TSV,
    texts=("sentence",),
    label="label",
    labels=("0", "1"),
    metrics=("accuracy",),
)

MRPC = SentenceTask(
    name="mrpc",
    source="Microsoft Research Paraphrase Corpus (Dolan and Brockett 2005), research use",
    folder="MRPC",
    # Microsoft's test file has labels. Its train file is not read: it holds the rows of GLUE's dev.tsv too.
    splits=TSV | {"test": File(("msr_paraphrase_test.txt", "test.tsv"))},
    texts=("#1 String", "#2 String"),
    label="Quality",
    labels=("0", "1"),
    metrics=("accuracy", "f1"),  # not F1 first: two thirds are paraphrases, "always yes" has an F1 of 81
)

STSB = SentenceTask(
    name="stsb",
    source="Semantic Textual Similarity Benchmark (Cer et al. 2017), research use",
    folder="STS-B",
    splits=TSV,
    texts=("sentence1", "sentence2"),
    label="score",  # 0 to 5, used as it is
    metrics=("pearson", "spearman"),
)

RTE = SentenceTask(
    name="rte",
    source="Recognizing Textual Entailment 1, 2, 3 and 5 (Dagan et al. 2006 and others), research use",
    folder="RTE",
    splits=TSV,
    texts=("sentence1", "sentence2"),
    label="label",
    labels=("entailment", "not_entailment"),  # the order is a contract: fine-tuned heads depend on it
    metrics=("accuracy",),
)

TASKS: dict[str, Task] = {task.name: task for task in (COLA, SST2, MRPC, STSB, RTE)}
