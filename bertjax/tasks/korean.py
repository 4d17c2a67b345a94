"""Korean tasks from their published files: NSMC (films good or bad) and KorSTS (how alike two sentences are)."""

from bertjax.contracts import Task
from bertjax.tasks._sentences import File, SentenceTask

NSMC = SentenceTask(
    name="nsmc",
    source="Naver Sentiment Movie Corpus (Park 2015), CC0",
    folder="nsmc",
    splits={
        "train": File(("ratings_train.txt", "train.tsv")),
        # It was published in two parts; where no dev.tsv was cut from the first, the second is what is scored on.
        "dev": File(("dev.tsv", "ratings_test.txt")),
        "test": File(("ratings_test.txt", "test.tsv")),
    },
    texts=("document",),
    label="label",
    labels=("0", "1"),
    metrics=("accuracy",),
)

KORSTS = SentenceTask(
    name="korsts",
    source="KorSTS, the STS benchmark in Korean (Ham et al. 2020), CC BY-SA 4.0",
    folder="KorSTS",
    splits={split: File((f"sts-{split}.tsv",)) for split in ("train", "dev", "test")},
    texts=("sentence1", "sentence2"),
    label="score",  # 0 to 5, used as it is
    metrics=("spearman", "pearson"),
)

TASKS: dict[str, Task] = {task.name: task for task in (NSMC, KORSTS)}
