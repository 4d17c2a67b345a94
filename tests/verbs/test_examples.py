"""What is asked for on the command line is what the encoder is trained on."""

import json
import re

import numpy as np
import pytest
from helpers import logged

from bertjax import load


@pytest.fixture
def spied(monkeypatch):
    """Every batch of training that goes to the device."""
    from bertjax.train import loop

    seen, put = [], loop.put_batch

    def spy(batch, mesh):
        seen.append(batch)
        return put(batch, mesh)

    monkeypatch.setattr(loop, "put_batch", spy)
    return seen


@pytest.fixture
def pretrain(bertjax, home, data, tmp_path):
    """pretrain(options) -> the folder of a run of 4 steps."""

    def call(options):
        arguments = f"pretrain {home}/pretrain.py --data {data} --out {tmp_path}/run --steps 4 {options}"
        outcome = bertjax(*arguments.split())
        assert outcome.code == 0, outcome.err
        return tmp_path / "run"

    return call


def test_a_schedule_of_span_masking(pretrain, spied):
    run = pretrain(
        "--objective.masking.kind span --objective.masking.rate 0.5 0.1 "
        "--objective.masking.mask-share 1 --objective.masking.random-share 0"
    )
    stored = json.loads((run / "config.json").read_text())["config"]["objective"]["masking"]
    assert stored == {"kind": "span", "rate": [0.5, 0.1], "mask_share": 1.0, "random_share": 0.0}
    held_out, trained = spied[0], spied[4:8]  # two batches in two pieces
    assert {batch["masked_weights"].shape[1] for batch in spied} == {16}  # half of 32
    shares = [batch["masked_weights"].sum() / batch["sequence"].sum() for batch in trained]
    assert shares == pytest.approx([0.5, 0.4, 0.3, 0.2], abs=0.04)
    assert held_out["masked_weights"].sum() / held_out["sequence"].sum() == pytest.approx(0.1, abs=0.04)
    for batch in trained:
        assert ((batch["tokens"] == 4).sum(1) == batch["masked_weights"].sum(1)).all()


def test_sentence_order_in_place_of_next_sentences(bertjax, pretrain, spied):
    run = pretrain("--objective.examples sop")
    lines = logged(run)
    for line in lines:
        assert line["loss"] == pytest.approx(line["mlm_loss"] + line["sop_loss"]) and "nsp_loss" not in line
    assert all(batch["types"].any() and "next_labels" in batch for batch in spied)
    report = bertjax("report", run).out
    assert f"{lines[-1]['sop_accuracy']:.3f}" in report


@pytest.mark.parametrize("examples", ["full-sentences", "doc-sentences", "segments"])
def test_masking_alone_from_text_to_a_score(bertjax, pretrain, spied, home, tmp_path, examples):
    run = pretrain(f"--objective.examples {examples}")
    for line in logged(run):
        assert line["loss"] == line["mlm_loss"] and not {"nsp_loss", "sop_loss"} & line.keys()
    assert all(not batch["types"].any() and "next_labels" not in batch for batch in spied)
    assert "nsp" not in bertjax("inspect", run).out and " - " in bertjax("report", run).out
    model = load(run)
    output = model(**model.tokenize(["the cat sat"]))
    assert output.pooler_output is None and output.last_hidden_state.shape == (1, 5, 32)
    assert len(model.fill_mask("the [MASK] sat", k=3)) == 3
    if examples == "segments":  # the pooler, which was not trained, begins anew
        out = tmp_path / "tuned"
        arguments = ["--task", "sms_spam", "--from", run, "--data", home, "--out", out, "--epochs", "1"]
        outcome = bertjax("finetune", home / "finetune.py", *arguments)
        assert outcome.code == 0, outcome.err
        assert (out / "scores.json").is_file()


@pytest.mark.slow
def test_packing(bertjax, pretrain, spied, home, data, tmp_path):
    run = pretrain("--packing --length 40 --objective.examples sop")
    assert json.loads((run / "config.json").read_text())["config"]["packing"] is True
    fill = [np.count_nonzero(batch["sequence"]) / batch["sequence"].size for batch in spied]
    assert all(batch["first_tokens"].shape[1] == batch["next_weights"].shape[1] == 5 for batch in spied)
    assert np.mean(fill) > 0.85 and max(batch["sequence"].max() for batch in spied) > 1
    for options in ("--packing", "--no-packing"):
        dry = f"pretrain {home}/pretrain.py --data {data} --out {tmp_path}/dry --length 40 --batch-size 4 --dry-run"
        arguments = f"{dry} --objective.examples segments {options}"
        shown = re.search(r"sequences a row\D+([\d.]+)", bertjax(*arguments.split()).out)
        assert (float(shown[1]) > 1) == (options == "--packing")


def test_a_weighted_mixture_of_folders(bertjax, data, pretrain, spied, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("\n\n".join("dog dog dog dog.\ndog dog dog dog dog." for _ in range(60)))
    prepare = f"prepare --corpus {other} --out {tmp_path}/dogs --tokenizer {data}/tokenizer --held-out 0.3"
    assert bertjax(*prepare.split()).code == 0
    options = f"--data {data} {tmp_path}/dogs --data-weights 3 1 --objective.masking.mask-share 0"
    run = pretrain(options + " --objective.masking.random-share 0")
    assert json.loads((run / "config.json").read_text())["config"]["data_weights"] == [3, 1]
    for batch in spied:
        dogs = [len(set(row[row > 4].tolist())) == 2 for row in batch["tokens"]]
        rows = len(dogs)
        assert dogs == [False] * (3 * rows // 4) + [True] * (rows // 4)
    plan = bertjax(*f"pretrain {data.parent}/pretrain.py --dry-run --out {tmp_path}/new {options}".split())
    assert re.search(r"rows of dogs +.*2 a step, 25.0% \(about [\d.]+ epochs\)", plan.out)


def test_folders_of_a_mixture_share_a_tokenizer(bertjax, home, data, tmp_path):
    (tmp_path / "text.txt").write_text("quite other words\n\nin these documents\n\nthan in those\n\nof them\n")
    prepare = f"prepare --corpus {tmp_path}/text.txt --out {tmp_path}/other --vocab-size 100"
    assert bertjax(*prepare.split()).code == 0
    outcome = bertjax(*f"pretrain {home}/pretrain.py --data {data} {tmp_path}/other --out {tmp_path}/run".split())
    assert outcome.code == 2 and f"--tokenizer {data}/tokenizer" in outcome.err


@pytest.mark.slow
def test_a_corpus_of_one_document(bertjax, home, tmp_path):
    text = "\n".join((home / "corpus.txt").read_text().replace("\n\n", "\n").splitlines())
    (tmp_path / "one.txt").write_text(text)
    options = ["--vocab-size", 120, "--held-out", 0.3, "--out"]
    outcome = bertjax("prepare", "--corpus", tmp_path / "one.txt", *options, tmp_path / "data")
    assert outcome.code == 0 and "train: 1 documents" in outcome.err, outcome.err
    command = ["pretrain", home / "pretrain.py", "--data", tmp_path / "data", "--steps", 2, "--batch-size", 4, "--out"]
    refused = bertjax(*command, tmp_path / "nsp")
    assert refused.code == 2 and "has a single document, so next sentence prediction has no negatives" in refused.err
    assert "--objective.examples sop, full-sentences or segments" in " ".join(refused.err.split())
    for examples in ("sop", "full-sentences", "segments"):
        outcome = bertjax(*command, tmp_path / examples, "--objective.examples", examples)
        assert outcome.code == 0, outcome.err


@pytest.fixture
def singles(bertjax, home, data, tmp_path):
    """singles(pairs) -> documents of one sentence, `pairs` of them of two, prepared; and what was said."""

    def make(pairs):
        lines = (home / "corpus.txt").read_text().replace("\n\n", "\n").splitlines()[:200]
        text = "\n".join(line + "\n" * (number >= pairs) for number, line in enumerate(lines))
        (tmp_path / "text.txt").write_text(text)
        prepare = f"prepare --corpus {tmp_path}/text.txt --tokenizer {data}/tokenizer --held-out 0.2 --out"
        outcome = bertjax(*prepare.split(), tmp_path / "singles")
        assert outcome.code == 0, outcome.err
        return tmp_path / "singles", outcome.err

    return make


def test_documents_of_one_sentence_give_no_pairs(bertjax, home, data, tmp_path, singles):
    folder, said = singles(pairs=0)
    assert "prepare: 1.00 sentences a document, which are few for pairs" in said
    command = ["pretrain", home / "pretrain.py", "--steps", 2, "--out", tmp_path / "run", "--data"]
    for examples in ("nsp", "sop"):
        outcome = bertjax(*command, folder, "--objective.examples", examples)
        assert outcome.code == 2 and "every document is one sentence" in outcome.err, outcome.err
        assert "give --objective.examples full-sentences, or prepare documents of several" in outcome.err
        assert not (tmp_path / "run").exists()
    for fine in ([folder, "--objective.examples", "full-sentences"], [data, folder, "--dry-run"]):
        outcome = bertjax(*command, *fine)
        assert outcome.code == 0 and "sentences a document" not in outcome.err, outcome.err


def test_few_documents_of_several_sentences_are_told(bertjax, home, tmp_path, singles):
    folder, _ = singles(pairs=50)
    outcome = bertjax(*f"pretrain {home}/pretrain.py --data {folder} --out {tmp_path}/run --steps 2".split())
    assert outcome.code == 0, outcome.err
    told = re.findall(r"pretrain: .*?: (1\.[234]\d) sentences a document are few for pairs, as most", outcome.err)
    assert len(told) == 1 and "full-sentences" in outcome.err, outcome.err
