"""What fine-tuning can be told to do acts on what is trained, and through the command line."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

from bertjax import run, scoring, session
from bertjax.config import Finetune
from bertjax.errors import ConfigError
from bertjax.recipe import load_recipe
from bertjax.saved import open_run
from bertjax.tasks import find
from bertjax.train.log import read_metrics
from bertjax.train.mesh import MeshConfig, make_mesh


@pytest.fixture
def finetune(bertjax, home, pretrained, tmp_path):
    """finetune(options, name) -> (folder of a run of one epoch on the messages, Outcome)."""

    def call(options, name="run"):
        command = f"finetune {home}/finetune.py --task sms_spam --from {pretrained} --data {home}"
        outcome = bertjax(*f"{command} --out {tmp_path}/{name} --epochs 1 {options}".split())
        assert outcome.code == 0, outcome.err
        return tmp_path / name, outcome

    return call


def parameters(folder):
    saved = open_run(folder)
    tree = saved.params(saved.objective(), make_mesh(MeshConfig(data=1)))
    return {"/".join(k.key for k in path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def test_lower_layers_move_less(finetune, pretrained):
    before = parameters(pretrained)
    moved = []
    for decay in (1.0, 0.1):
        after = parameters(finetune(f"--optimizer.layer-decay {decay} --optimizer.peak-lr 1e-4", f"decay-{decay}")[0])
        names = ("encoder/embed/tokens/table", "encoder/layer_0/mlp/in/kernel", "pooler/kernel")
        moved.append([np.abs(after[name] - before[name]).max() for name in names])
    ratios = np.divide(*reversed(moved))
    np.testing.assert_allclose(ratios, [1e-3, 1e-2, 1e-1], rtol=0.5)  # one layer: the embeddings are 3 below the head


def test_layers_at_the_top_start_anew(monkeypatch, home, pretrained, tmp_path):
    begun = []

    def caught(fixed, state, *_, **__):
        begun.append(jax.device_get(state.params))
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "fit", caught)
    config = replace(
        load_recipe(str(home / "finetune.py"), Finetune),
        task="sms_spam", source=str(pretrained), data=str(home), out=str(tmp_path / "run"),
    )  # fmt: skip
    for changed in (config, replace(config, new_layers=1), replace(config, encoder="random")):
        with pytest.raises(KeyboardInterrupt):
            run.finetune(changed)
    whole, new, random = begun

    def same(a, b):
        return all((x == y).all() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))

    assert same(new["encoder"]["embed"], whole["encoder"]["embed"])
    for part, of in ((new["encoder"]["layer_0"], random["encoder"]["layer_0"]), (new["pooler"], random["pooler"])):
        assert same(part, of)
    assert not same(new["encoder"]["layer_0"], whole["encoder"]["layer_0"]) and not same(new["pooler"], whole["pooler"])
    with pytest.raises(ConfigError, match="new_layers=2 but the encoder has 1 layers"):
        run.finetune(replace(config, new_layers=2))
    with pytest.raises(ConfigError, match="new_layers=1 is for a pretrained encoder that is trained on"):
        replace(config, new_layers=1, encoder="random")


def test_new_layers_from_the_command_line(finetune):
    folder, _ = finetune("--new-layers 1")
    assert json.loads((folder / "config.json").read_text())["config"]["new_layers"] == 1


def test_training_stops_where_dev_gets_no_better(finetune):
    options = "--patience 2 --epochs 9 --optimizer.peak-lr 1e-9"  # so that no epoch is better than the first
    folder, outcome = finetune(options)
    assert "stops early: no better score since step 8" in outcome.err
    steps = [line["step"] for line in read_metrics(folder) if line["split"] == "dev"]
    assert steps == [0, 8, 16, 24]
    finetune(options)  # the same command again finds it finished
    assert [line["step"] for line in read_metrics(folder) if line["split"] == "dev"] == steps


def test_class_weights(finetune, home):
    task = find("sms_spam")
    examples = [{"label": label} for label in (0, 0, 0, 1)]

    def weights(*given):
        return [example.get("weight") for example in scoring.weighted(examples, task, given)]

    assert weights() == [None] * 4
    assert weights("balanced") == pytest.approx([2 / 3] * 3 + [2])
    assert weights("1", "2.5") == [1, 1, 1, 2.5]
    for wrong in (("1",), ("1", "0"), ("1", "nan"), ("equal",)):
        with pytest.raises(ConfigError, match="give `balanced`, or a number above 0 for each of ham, spam"):
            weights(*wrong)
    with pytest.raises(ConfigError, match="which conll2003 has not"):
        scoring.weighted(examples, find("conll2003"), ("balanced",))
    spam = []
    for given in ("1000 1", "1 1000"):
        folder, _ = finetune(f"--class-weights {given}", f"weights-{len(spam)}")
        saved, rows = open_run(folder), task.read(str(home), "dev")
        spam.append([p["prediction"] for p in scoring.predictions_of(saved, task, rows, 64)].count("spam"))
    assert spam[0] == 0 and spam[1] == 24


def test_buckets_change_no_prediction_and_compile_no_more_than_their_shapes(finetune, bertjax, home, monkeypatch):
    seen = []
    from bertjax.train import loop

    put = loop.put_batch
    monkeypatch.setattr(
        loop, "put_batch", lambda batch, mesh: (seen.append(batch["tokens"].shape), put(batch, mesh))[1]
    )
    folder, _ = finetune("--buckets 12 16 24 99")
    assert {shape[1] for shape in seen} == {12, 16, 24} and len(seen) == 8
    saved, task = open_run(folder), find("sms_spam")
    rows = task.read(str(home), "dev")
    answers = [
        scoring.predictions_of(replace(saved, config=replace(saved.config, buckets=b)), task, rows, 8)
        for b in ((), (12, 16))
    ]
    for fixed, short in zip(*answers, strict=True):
        assert fixed["prediction"] == short["prediction"]
        assert fixed["probabilities"] == pytest.approx(short["probabilities"], abs=1e-5)
    scores = json.loads((folder / "scores.json").read_text())["metrics"]
    assert task.score(answers[0], rows) == scores
    mesh = make_mesh(MeshConfig(data=1))
    scorer = scoring.Scorer(
        task, rows, saved.tokenizer, saved.objective(), mesh, length=24, buckets=(12, 16), batch_size=4
    )
    params = saved.params(saved.objective(), mesh)
    for _ in range(2):
        scorer.predictions(params, {})
    assert scorer._step._cache_size() <= 3


@pytest.mark.parametrize("buckets", ["12 8", "8 8", "4 8"])
def test_buckets_are_shorter_lengths_in_order(bertjax, home, tmp_path, buckets):
    command = f"finetune {home}/finetune.py --task sms_spam --from x --data x --out {tmp_path}/run --buckets {buckets}"
    outcome = bertjax(*command.split())
    assert outcome.code == 2 and f"buckets={buckets}: lengths from 8 on, ascending" in outcome.err
