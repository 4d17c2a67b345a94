"""Tasks of every head from files to scores and predictions, by the command line."""

import json
import random

import pytest

from bertjax.saved import open_run

WORDS = ["the", "a", "cat", "dog", "bird", "sat", "ran", "on", "under", "mat", "tree", "house", "red", "small", "loud"]


def figures(path):
    return json.loads(path.read_text())


def lines(path):
    return [json.loads(line) for line in path.read_text().rstrip("\n").split("\n")]


@pytest.fixture
def verbs(bertjax, home, pretrained, tmp_path):
    """verbs(task, data, inputs, *options) -> (run, predictions of `inputs`) after finetune, evaluate and predict.

    A Hugging Face directory of the run predicts the same.
    """

    def call(task, data, inputs, *options):
        out, hf, answers = tmp_path / "run", tmp_path / "hf", tmp_path / "answers.jsonl"
        command = ["--task", task, "--from", pretrained, "--data", data, "--out", out, *options]
        for arguments in (
            ["finetune", home / "finetune.py", *command],
            ["evaluate", out, "--data", data],
            ["predict", out, "--input", inputs, "--out", answers],
            ["predict", out, "--input", inputs, "--out", answers.with_suffix(".tsv")],
            ["convert", "--from", out, "--to", hf],
            ["predict", hf, "--input", inputs, "--out", tmp_path / "hf.jsonl"],
        ):
            outcome = bertjax(*arguments)
            assert outcome.code == 0, outcome.err
        scores = figures(out / "scores.json")["metrics"]
        assert figures(out / "scores-dev.json")["metrics"] == pytest.approx(scores)
        assert all(0 <= value <= 1 for value in scores.values())
        assert (tmp_path / "hf.jsonl").read_bytes() == answers.read_bytes()
        return out, lines(answers)

    return call


# -- span -----------------------------------------------------------------------------------------------------------


def squad(seed, count, unanswerable):
    """Contexts longer than a row; the answer is what stands before "loud"."""
    rng = random.Random(seed)
    words = [word for word in WORDS if word != "loud"]
    paragraphs = []
    for i in range(count):
        context = rng.choices(words, k=40)
        place = rng.randrange(1, 40)
        item = {"id": f"{seed}-{i}", "question": "loud", "answers": []}
        if unanswerable and i % 2:
            item["is_impossible"] = True
        else:
            context.insert(place, "loud")
            start = len(" ".join(context[: place - 1])) + (place > 1)
            item["answers"] = [{"text": context[place - 1], "answer_start": start}]
        paragraphs.append({"context": " ".join(context), "qas": [item]})
    return {"version": "test", "data": [{"title": "words", "paragraphs": paragraphs}]}


@pytest.mark.parametrize(("task", "version"), [("squad", "v1.1"), ("squad2", "v2.0")])
def test_squad(bertjax, verbs, tmp_path, task, version):
    data = {split: squad(seed, 24, task == "squad2") for seed, split in enumerate(("train", "dev"))}
    data["train"]["data"][0]["paragraphs"][0]["qas"][0]["answers"][0]["answer_start"] += 1
    for split, content in data.items():
        (tmp_path / f"{split}-{version}.json").write_text(json.dumps(content))
    settings = ["--task-settings", "max_answer=2", "n_best=3"]
    run, answers = verbs(task, tmp_path, tmp_path / f"dev-{version}.json", "--epochs", 2, *settings)
    assert all(len(row["best"]) == 3 + (task == "squad2") for row in answers)
    assert all(len(entry["text"].split()) <= 2 for row in answers for entry in row["best"])
    (fault,) = figures(run / "not_trained_on.json")
    assert fault.startswith("question 0-0: the answer ") and figures(run / "scores.json")["data"]["train"]["rows"] == 23
    contexts = {p["qas"][0]["id"]: p["context"] for p in data["dev"]["data"][0]["paragraphs"]}
    predictions = figures(run / "predictions.json")
    assert predictions == figures(run / "predictions-dev.json") == {row["id"]: row["prediction"] for row in answers}
    assert predictions.keys() == contexts.keys()
    assert all(text in contexts[key] for key, text in predictions.items())
    assert figures(run / "nbest_predictions.json").keys() == contexts.keys()
    assert len((tmp_path / "answers.tsv").read_text().split("\n")) == 26
    saved = open_run(run)
    assert saved.objective().config.head == "span"
    if task == "squad2":
        odds, threshold = figures(run / "null_odds.json"), saved.figures["null_threshold"]
        assert {key for key, text in predictions.items() if not text} == {k for k, o in odds.items() if o > threshold}
    else:
        assert all(predictions.values()) and not (run / "null_odds.json").exists()
    command = ["predict", run, "--input", tmp_path / f"dev-{version}.json", "--out", tmp_path / "2.jsonl", "--top", 2]
    assert bertjax(*command).code == 0
    assert [row["best"] for row in lines(tmp_path / "2.jsonl")] == [row["best"][:2] for row in answers]
    outcome = bertjax(*command[:-4], "--out", tmp_path / "2.tsv", "--top", 2)
    assert outcome.code == 2 and "top=2: TSV has the best answer alone; give --out NAME.jsonl" in outcome.err


def test_spans_need_a_tokenizer_with_offsets(bertjax, home, tmp_path):
    (tmp_path / "pretrain.py").write_text((home / "pretrain.py").read_text().replace("steps=16", "steps=1"))
    corpus, data, run = home / "corpus.txt", tmp_path / "data", tmp_path / "run"
    command = ["--corpus", corpus, "--out", data, "--vocab-size", 60, "--tokenizer-kind", "unigram"]
    assert bertjax("prepare", *command).code == 0
    assert bertjax("pretrain", tmp_path / "pretrain.py", "--data", data, "--out", run).code == 0
    for split in ("train", "dev"):
        (tmp_path / f"{split}-v1.1.json").write_text(json.dumps(squad(0, 8, False)))
    command = ["--task", "squad", "--from", run, "--data", tmp_path, "--out", tmp_path / "new"]
    outcome = bertjax("finetune", home / "finetune.py", *command)
    assert outcome.code == 2 and "WordPiece or byte-level BPE" in outcome.err


# -- tag ------------------------------------------------------------------------------------------------------------


def test_ner(verbs, tmp_path):
    """Every "cat" is a person, every "red house" a place; sentences are longer than a row."""
    rng = random.Random(3)
    tagged = [(word, "I-PER" if word == "cat" else "O") for word in WORDS if word not in ("red", "house")]
    for name, count in (("eng.train", 32), ("eng.testa", 12)):
        blocks = []
        for _ in range(count):
            rows = [*rng.choices(tagged, k=rng.randint(1, 40)), ("red", "I-LOC"), ("house", "I-LOC")]
            blocks.append("".join(f"{word} X {tag}\n" for word, tag in rows))
        (tmp_path / name).write_text("-DOCSTART- X O\n\n" + "\n".join(blocks))
    run, answers = verbs("conll2003", tmp_path, tmp_path / "eng.testa", "--epochs", 6)
    scores = figures(run / "scores.json")
    assert scores["metrics"].keys() == {"f1", "precision", "recall"} and scores["metrics"]["f1"] > 0.8
    words = [line.split()[0] for line in (tmp_path / "eng.testa").read_text().split("\n") if line][1:]
    assert len(answers) == scores["data"]["dev"]["rows"] == 12
    assert [word for row in answers for word in row["words"]] == words
    table = [line.split("\t") for line in (tmp_path / "answers.tsv").read_text().rstrip("\n").split("\n")]
    assert [row[1] for row in table[1:]] == words
    assert [row[2] for row in table[1:]] == [tag for row in answers for tag in row["prediction"]]
    assert open_run(run).objective().config.head == "tag"


# -- choose ---------------------------------------------------------------------------------------------------------


def test_multiple_choice(bertjax, verbs, tmp_path):
    """The right choice is the loud bird; some rows have three choices, some two."""
    rng = random.Random(4)
    for split, count in (("train", 48), ("dev", 12)):
        items = []
        for i in range(count):
            choices = rng.sample(["cat dog", "tree house", "red mat"], rng.randint(1, 2))
            choices.insert(rng.randint(0, len(choices)), "loud bird")
            question = {"question": "small", "choice": choices, "answer": "loud bird"}
            items.append([[" ".join(rng.choices(WORDS, k=5))], [question], str(i)])
        (tmp_path / f"{split}.json").write_text(json.dumps(items))
    run, answers = verbs("dream", tmp_path, tmp_path / "dev.json", "--epochs", 4)
    assert figures(run / "scores.json")["metrics"]["accuracy"] > 0.8
    assert sum(row["best"][0]["text"] == "loud bird" for row in answers) > 9
    assert {len(row["best"]) for row in answers} == {2, 3}
    inputs = {"context": "red", "choices": ["mat", "loud bird", "cat", "a", "the"]}
    (tmp_path / "in.jsonl").write_text(json.dumps(inputs))
    command = ["predict", run, "--input", tmp_path / "in.jsonl", "--out", tmp_path / "top.jsonl", "--top", 3]
    assert bertjax(*command).code == 0
    (row,) = lines(tmp_path / "top.jsonl")
    shares = [entry["probability"] for entry in row["best"]]
    assert len(shares) == 3 and shares == sorted(shares, reverse=True) and row["prediction"] == row["best"][0]["choice"]
    assert open_run(run).objective().config.head == "choose"


def test_classes_have_no_ranking(bertjax, finetuned, tmp_path):
    (tmp_path / "in.tsv").write_text("text\na cat\n")
    outcome = bertjax("predict", finetuned, "--input", tmp_path / "in.tsv", "--out", tmp_path / "o.tsv", "--top", 2)
    assert outcome.code == 2 and "sms_spam has none; leave it out" in outcome.err and not (tmp_path / "o.tsv").exists()


# -- classify, between entities -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_relations(verbs, tmp_path):
    rng = random.Random(5)
    labels = ["Cause-Effect(e1,e2)", "Cause-Effect(e2,e1)", "Other"]
    blocks = []
    for number in range(40):
        words = [rng.choice(WORDS) for _ in range(4)]
        text = "{} <e1>{}</e1> {} <e2>{}</e2> red.".format(*words)
        blocks.append(f'{number}\t"{text}"\n{rng.choice(labels)}\nComment:\n\n')
    (tmp_path / "TRAIN_FILE.TXT").write_text("".join(blocks))
    (tmp_path / "in.txt").write_text("".join(blocks[-4:]))
    run, answers = verbs("semeval2010", tmp_path, tmp_path / "in.txt")
    scores = figures(run / "scores.json")
    assert scores["metrics"].keys() == {"macro_f1", "accuracy"} and scores["data"]["dev"]["rows"] == len(answers) == 4
    right = [row["prediction"] == block.split("\n")[1] for row, block in zip(answers, blocks[-4:], strict=True)]
    assert sum(right) / 4 == pytest.approx(scores["metrics"]["accuracy"])
    assert all(len(row["probabilities"]) == 19 for row in answers)
