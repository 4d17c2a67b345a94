"""What a model has to beat: TF-IDF of words and word pairs with logistic or ridge regression, trained in a second."""

from collections.abc import Sequence

from bertjax.contracts import Row, Task
from bertjax.errors import ConfigError, DataError
from bertjax.tasks.relation import Relation

Text = Row | Relation


def tfidf_scores(task: Task, train_rows: Sequence[Text], dev_rows: Sequence[Text]) -> dict[str, float]:
    """The task's metrics on `dev_rows` after training on `train_rows`; the two texts of a pair are joined."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline

    if not isinstance(train_rows[0], Text):
        raise ConfigError(f"baseline=tfidf is for one or two texts a row, which {task.name} has not; leave it out")
    if task.labels and len({row.label for row in train_rows}) < 2:
        raise DataError(f"{task.name}: all rows to train on are of one class; take more of them")
    # Both settings by cross-validation on the spam messages: with 300 of them F1 is .85; .49 without class weights.
    classifier = LogisticRegression(C=10.0, class_weight="balanced", max_iter=1000)
    vectors = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    model = make_pipeline(vectors, classifier if task.labels else Ridge())
    model.fit([_text(row) for row in train_rows], [row.label for row in train_rows])
    answers = model.predict([_text(row) for row in dev_rows])
    return task.score([{"prediction": task.labels[a] if task.labels else float(a)} for a in answers], dev_rows)


def _text(row: Text) -> str:
    if isinstance(row, Relation):
        return " ".join(row.parts)
    return row.text_a if row.text_b is None else f"{row.text_a} [SEP] {row.text_b}"
