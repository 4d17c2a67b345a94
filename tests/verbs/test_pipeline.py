"""From raw text to scores and predictions through the command line, and what lies in the folders afterwards."""

import json
import random
import re
import subprocess
import sys
import time
from dataclasses import fields, replace

import jax
import numpy as np
import pytest

from bertjax.config import Finetune, Pretrain
from bertjax.help import unwrap
from bertjax.jsonio import from_json
from bertjax.recipe import load_recipe
from bertjax.saved import open_run
from bertjax.train.checkpoint import Checkpoints
from bertjax.train.log import ENDED, read_metrics
from bertjax.train.mesh import MeshConfig, make_mesh
from bertjax.train.spent import shares

STSB_HEADER = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
WORDS = ["the", "a", "cat", "dog", "bird", "sat", "ran", "flew", "saw", "heard"]


@pytest.fixture(scope="session")
def glue(home):
    """STS-B and RTE in their published formats; the texts of a pair share more words the higher the score."""
    rng = random.Random(2)
    for folder, header in (("STS-B", STSB_HEADER), ("RTE", "index\tsentence1\tsentence2\tlabel\n")):
        (home / "glue" / folder).mkdir(parents=True)
        for split, count in (("train", 32), ("dev", 16)):
            lines = [header]
            for i in range(count):
                first = rng.sample(WORDS, 5)
                shared = rng.randint(0, 5)
                second = first[:shared] + rng.sample(WORDS, 5 - shared)
                texts = f"{' '.join(first)}.\t{' '.join(second)}."
                label = "entailment" if shared > 2 else "not_entailment"
                lines.append(
                    f"{i}\tmain\tfile\t2012\t{i}\tnone\tnone\t{texts}\t{shared}.000\n"
                    if folder == "STS-B"
                    else f"{i}\t{texts}\t{label}\n"
                )
            (home / "glue" / folder / f"{split}.tsv").write_text("".join(lines))
    return home / "glue"


def figures(path):
    return json.loads(path.read_text())


def test_help_is_quick_and_leaves_jax_alone():
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "bertjax", "--help"], capture_output=True, text=True
    )
    seconds = time.perf_counter() - began
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.split("\n")}
    assert done.returncode == 0 and "usage: bertjax VERB" in done.stdout
    assert "bertjax.cli" in imported and not imported & {"jax", "flax", "numpy", "tyro", "rich"}
    assert seconds < 3  # well under 1 s on a machine that does nothing else


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize(
    "verb", ["prepare", "pretrain", "finetune", "evaluate", "predict", "embed", "inspect", "report", "list"]
)
def test_every_verb_has_help(bertjax, verb, flag):
    outcome = bertjax(verb, flag)
    assert outcome.code == 0 and f"bertjax {verb}" in outcome.out and not outcome.err
    assert max(map(len, outcome.out.split("\n"))) <= 120


def test_help_has_no_line_breaks_of_the_source():
    config = Pretrain()
    unwrap(config)
    texts = {f.name: f.metadata.get("help", "") for part in (config, config.objective) for f in fields(part)}
    assert texts["remat"].startswith("what the backward pass computes again, to save memory, in place of keeping it: ")
    assert "across documents or of one document (RoBERTa)" in texts["examples"] and texts["grace"]
    assert not any("\n" in text for text in texts.values())


def test_help_names_every_option(bertjax):
    text = bertjax("pretrain", "--help").out
    for option in ("--data", "--micro-batches", "--model.width", "--optimizer.kind", "--mesh.fsdp", "--dry-run"):
        assert option in text
    assert "--from" in bertjax("finetune", "--help").out
    assert "RUN" in bertjax("evaluate", "--help").out


# -- what a run leaves behind ---------------------------------------------------------------------------------------


def test_metrics_are_json_lines(pretrained, tiny):
    lines = read_metrics(pretrained)
    text = (pretrained / "metrics.jsonl").read_text()
    assert text.count("\n") == len(lines) and "NaN" not in text
    train = [line for line in lines if line["split"] == "train"]
    dev = [line for line in lines if line["split"] == "dev"]
    assert [line["step"] for line in dev] == [0, 8, 16]
    keys = {"step", "loss", "mlm_loss", "nsp_loss", "mlm_accuracy", "nsp_accuracy", "seconds"}
    for line in train:
        assert line.keys() >= keys | {"lr", "grad_norm", "tokens_per_second", "gflops_per_second"}
        assert line["loss"] == pytest.approx(line["mlm_loss"] + line["nsp_loss"])
    assert all(line.keys() >= keys for line in dev)
    assert dev[-1]["mlm_loss"] < dev[0]["mlm_loss"]
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds)
    rate = tiny.optimizer.schedule(tiny.steps)
    assert [line["lr"] for line in train] == [float(rate(step)) for step in range(tiny.steps)]


@pytest.mark.parametrize(("folder", "kind"), [("pretrained", Pretrain), ("finetuned", Finetune)])
def test_the_config_of_a_run_reads_back(request, home, folder, kind):
    stored = figures(request.getfixturevalue(folder) / "config.json")
    read = from_json(kind, stored["config"], "config.json")
    assert read.out == str(home / folder) and stored["command"] == ("pretrain" if kind is Pretrain else "finetune")
    assert stored["versions"]["jax"] == jax.__version__
    assert stored["model"]["vocab_size"] == 88 if kind is Finetune else read.model.vocab_size


def test_scores_say_how_to_get_them_again(finetuned, pretrained):
    scores = figures(finetuned / "scores.json")
    assert scores["task"] == "sms_spam" and scores["split"] == "dev"
    assert scores["encoder"] == "pretrained" and scores["from"] == str(pretrained) and scores["seed"] == 0
    assert scores["data"]["train"]["rows"] == 64 and scores["data"]["dev"]["rows"] == 24
    assert len(scores["data"]["train"]["sha256"]) == 64
    assert scores["metrics"].keys() == scores["baseline"]["tfidf"].keys() == {"f1", "accuracy"}
    dev = [line for line in read_metrics(finetuned) if line["split"] == "dev" and line["step"]]
    assert len(dev) == 6 and scores["metrics"]["f1"] == max(line["f1"] for line in dev) > 0.4
    best = max(dev, key=lambda line: line["f1"])
    assert best["f1"] == dev[Checkpoints(finetuned).best // 8 - 1]["f1"]
    assert scores["epoch"] == Checkpoints(finetuned).best / 8


# -- from run to run ------------------------------------------------------------------------------------------------


def test_evaluate_gives_the_scores_of_fine_tuning(bertjax, finetuned, home):
    outcome = bertjax("evaluate", finetuned, "--data", home)
    assert outcome.code == 0 and "accuracy" in outcome.out
    scores = figures(finetuned / "scores-dev.json")
    assert scores["metrics"] == figures(finetuned / "scores.json")["metrics"]
    assert scores["data"]["dev"] == figures(finetuned / "scores.json")["data"]["dev"]
    assert scores["step"] == Checkpoints(finetuned).best


def test_evaluate_another_split_into_another_file(bertjax, finetuned, home, tmp_path):
    out = tmp_path / "new" / "train.json"
    assert bertjax("evaluate", finetuned, "--data", home, "--split", "train", "--out", out).code == 0
    assert figures(out)["data"]["train"]["rows"] == 64


def test_predictions_in_tsv_and_json_lines_agree(bertjax, finetuned, home, tmp_path):
    texts = [line.split("\t")[1] for line in (home / "dev.tsv").read_text().rstrip("\n").split("\n")]
    (tmp_path / "in.tsv").write_text("text\n" + "\n".join(texts) + "\n")
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"id": 1, "text": text}) + "\n" for text in texts))
    assert bertjax("predict", finetuned, "--input", tmp_path / "in.tsv", "--out", tmp_path / "o.tsv").code == 0
    assert bertjax("predict", finetuned, "--input", tmp_path / "in.jsonl", "--out", tmp_path / "o.jsonl").code == 0
    header, *rows = [line.split("\t") for line in (tmp_path / "o.tsv").read_text().rstrip("\n").split("\n")]
    records = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().rstrip("\n").split("\n")]
    assert header == ["index", "prediction", "ham", "spam"] and len(rows) == len(records) == 24
    for number, (row, record) in enumerate(zip(rows, records, strict=True)):
        shares = [float(row[2]), float(row[3])]
        assert sum(shares) == pytest.approx(1, abs=2e-6)
        assert row[1] == ("ham", "spam")[int(np.argmax(shares))]
        assert record == {
            "index": number,
            "prediction": row[1],
            "probabilities": {"ham": shares[0], "spam": shares[1]},
        }
    labels = [line.split("\t")[0] for line in (home / "dev.tsv").read_text().rstrip("\n").split("\n")]
    accuracy = np.mean([row[1] == label for row, label in zip(rows, labels, strict=True)])
    assert accuracy == pytest.approx(figures(finetuned / "scores.json")["metrics"]["accuracy"])


@pytest.mark.parametrize("task", ["stsb", "rte"])
def test_pairs_and_regression(bertjax, home, pretrained, glue, tmp_path, task):
    out = tmp_path / "run"
    command = ["--task", task, "--from", pretrained, "--data", glue, "--out", out, "--epochs", 2, "--train-rows", 24]
    command += ["--baseline", "tfidf"]
    assert bertjax("finetune", home / "finetune.py", *command).code == 0
    scores = figures(out / "scores.json")
    assert scores["data"]["train"]["rows"] == 24
    assert scores["baseline"]["tfidf"].keys() == scores["metrics"].keys()
    assert bertjax("evaluate", out, "--data", glue / {"stsb": "STS-B", "rte": "RTE"}[task]).code == 0
    again = figures(out / "scores-dev.json")["metrics"]
    assert again.keys() == ({"pearson", "spearman"} if task == "stsb" else {"accuracy"})
    # After six steps predictions differ by 1e-4 from row to row, which float32 resolves to a five-hundredth.
    assert again == pytest.approx(scores["metrics"], abs=5e-3)
    (tmp_path / "in.jsonl").write_text('{"text_a": "the cat sat", "text_b": "a dog ran"}\n' * 3)
    assert bertjax("predict", out, "--input", tmp_path / "in.jsonl", "--out", tmp_path / "o.jsonl").code == 0
    records = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().rstrip("\n").split("\n")]
    if task == "stsb":
        assert all(record.keys() == {"index", "prediction"} and 0 <= record["prediction"] <= 5 for record in records)
    else:
        assert {record["prediction"] for record in records} <= {"entailment", "not_entailment"}


def test_tfidf_is_refused_where_rows_are_no_texts_before_anything_is_trained(bertjax, home, pretrained, tmp_path):
    for split in ("train", "dev"):
        dialogue = [["a cat"], [{"question": "?", "choice": ["a", "b"], "answer": "a"}], "1"]
        (tmp_path / f"{split}.json").write_text(json.dumps([dialogue] * 8))
    command = ["--task", "dream", "--from", pretrained, "--data", tmp_path, "--out", tmp_path / "run"]
    outcome = bertjax("finetune", home / "finetune.py", *command, "--baseline", "tfidf")
    assert outcome.code == 2 and "which dream has not" in outcome.err and not (tmp_path / "run").exists()


def start(folder):
    """The first training loss, which tells where a run began."""
    first = next(line for line in read_metrics(folder) if line["split"] == "train")
    return first["step"], first["loss"]


def test_a_random_encoder_is_another_start(bertjax, home, pretrained, finetuned, tmp_path):
    out = tmp_path / "run"
    command = ["--task", "sms_spam", "--from", pretrained, "--data", home, "--out", out, "--encoder", "random"]
    assert bertjax("finetune", home / "finetune.py", *command, "--epochs", 1).code == 0
    assert figures(out / "scores.json")["encoder"] == "random"
    assert start(out) != start(finetuned)


def test_the_encoder_is_restored_alone_to_the_bit(pretrained, finetuned):
    """Whatever heads and optimizer the run had: encoder and pooler, and nothing else, of the best checkpoint."""
    saved, mesh = open_run(pretrained), make_mesh(MeshConfig(data=1))
    whole = saved.params(saved.objective(), mesh)
    alone = saved.encoder_params(open_run(finetuned).objective(), mesh)
    assert whole.keys() == {"encoder", "pooler", "mlm", "nsp"} and alone.keys() == {"encoder", "pooler"}
    for name, tree in alone.items():
        leaves = zip(jax.tree.leaves(tree), jax.tree.leaves(whole[name]), strict=True)
        assert all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in leaves)


def test_fine_tuning_starts_from_that_encoder(monkeypatch, pretrained, home, tmp_path):
    from bertjax import run, session

    begun = {}

    def caught(*arguments, **options):
        begun.update(arguments[1].params)
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "fit", caught)
    config = replace(
        load_recipe(str(home / "finetune.py"), Finetune),
        task="sms_spam", source=str(pretrained), data=str(home), out=str(tmp_path / "run"),
    )  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        run.finetune(config)
    saved = open_run(pretrained)
    stored = saved.params(saved.objective(), make_mesh(MeshConfig(data=1)))
    for name in ("encoder", "pooler"):
        leaves = zip(jax.tree.leaves(begun[name]), jax.tree.leaves(stored[name]), strict=True)
        assert all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in leaves)
    assert "mlm" not in begun and begun["classify"]["kernel"].shape == (32, 2)


# -- looking --------------------------------------------------------------------------------------------------------


def test_dry_run_tells_and_writes_nothing(bertjax, home, data, tmp_path):
    command = ["pretrain", home / "pretrain.py", "--data", data, "--out", tmp_path / "run", "--dry-run"]
    outcome = bertjax(*command, "--later-phases", "0.25", "40", "4")
    assert outcome.code == 0 and not list(tmp_path.iterdir())
    assert "12 steps of 8 x 32" in outcome.out and "4 steps of 4 x 40" in outcome.out
    for words in ("parameters", "optimizer", "batch", "temporaries", "steps", "tokens a step", "FLOP"):
        assert words in outcome.out


def test_report_puts_runs_side_by_side(bertjax, pretrained, finetuned, tmp_path):
    outcome = bertjax("report", pretrained, finetuned, finetuned, "--out", tmp_path / "report.txt")
    assert outcome.code == 0 and not outcome.err
    stripped = [
        [line.rstrip() for line in text.split("\n")] for text in (outcome.out, (tmp_path / "report.txt").read_text())
    ]
    assert stripped[0] == stripped[1]
    dev = [line for line in read_metrics(pretrained) if line["split"] == "dev"]
    scores = figures(finetuned / "scores.json")
    for figure in (dev[0]["loss"], dev[-1]["loss"], dev[-1]["mlm_accuracy"]):
        assert f"{figure:.3f}" in outcome.out
    assert f"{scores['metrics']['f1']:.4f}" in outcome.out and outcome.out.count("tfidf, ") == 1
    assert max(map(len, outcome.out.split("\n"))) <= 120
    for run in (pretrained, finetuned):
        ended = read_metrics(run)[-1]
        assert ended["split"] == ENDED and sum(ended["spent"].values()) == pytest.approx(ended["seconds"], abs=0.01)
        shown = [f"{sum(ended['spent'].values()):,.0f}", *shares(ended["spent"]).values()]
        assert any(re.findall(r"[\d,]+%?", row)[-8:] == shown for row in outcome.out.split("\n"))


@pytest.mark.parametrize("what", ["pretrain.py", "pretrained", "finetuned"])
def test_inspect_shows_every_parameter(bertjax, home, finetuned, what):
    outcome = bertjax("inspect", home / what)
    assert outcome.code == 0
    for name in ("encoder/embed/tokens/table", "encoder/layer_0/attn/query/kernel", "pooler/kernel", "MFLOP a token"):
        assert name in outcome.out
    assert ("classify/kernel" if what == "finetuned" else "mlm/bias") in outcome.out
    if what != "pretrain.py":
        saved = open_run(home / what)
        params = saved.params(saved.objective(), make_mesh(MeshConfig(data=1)))
        assert f"{sum(x.size for x in jax.tree.leaves(params)):,} parameters" in outcome.out
        assert f"best checkpoint {saved.step}" in outcome.out


def test_inspect_shows_a_published_size(bertjax, home):
    outcome = bertjax("inspect", home / "pretrain.py", "--preset", "tiny")
    assert outcome.code == 0 and "(30522, 128)" in outcome.out and "encoder/layer_1/attn/query/kernel" in outcome.out


def test_list_names_all_there_is(bertjax):
    outcome = bertjax("list")
    for name in ("bert", "mlm", "supervised", "cola", "sst2", "mrpc", "stsb", "rte", "sms_spam", "bert large"):
        assert f"\n  {name}" in outcome.out
    tasks = bertjax("list", "tasks").out
    assert tasks.startswith("tasks\n  ") and "\n  cola: " in tasks and "models" not in tasks
    assert "bert tiny: width=128, layers=2, heads=2, mlp_width=512" in bertjax("list", "presets").out
    assert max(map(len, outcome.out.split("\n"))) <= 120
