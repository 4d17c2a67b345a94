"""The encoder as it is: frozen under a head, and as vectors of texts."""

import gzip
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax import load
from bertjax.errors import ConfigError
from bertjax.models.bert import Config
from bertjax.nn.heads import POOLINGS, chosen_layers
from bertjax.objectives import supervised
from bertjax.saved import open_run
from bertjax.train.checkpoint import Checkpoints
from bertjax.train.mesh import MeshConfig, make_mesh
from bertjax.train.state import init_params

TEXTS = ["the cat sat", "a bird", "the dog saw the cat on the red mat under a small tree near the old house", "", "cat"]


def parameters(folder, names=("encoder", "pooler")):
    saved = open_run(folder)
    tree = saved.params(saved.objective(), make_mesh(MeshConfig(data=1)))
    return jax.tree.leaves({name: tree[name] for name in names})


def test_a_frozen_encoder_stays_to_the_bit(bertjax, home, pretrained, tmp_path):
    run = tmp_path / "run"
    command = f"finetune {home}/finetune.py --task sms_spam --from {pretrained} --data {home} --out {run} --frozen"
    outcome = bertjax(*f"{command} --epochs 3 --baseline tfidf".split())
    assert outcome.code == 0, outcome.err
    for before, after in zip(parameters(pretrained, ["encoder"]), parameters(run, ["encoder"]), strict=True):
        np.testing.assert_array_equal(before, after)  # weight decay neither
    moved = zip(parameters(pretrained, ["pooler"]), parameters(run, ["pooler"]), strict=True)
    assert all((before != after).any() for before, after in moved)
    scores = json.loads((run / "scores.json").read_text())["metrics"]
    assert bertjax("evaluate", run, "--data", home).code == 0
    assert json.loads((run / "scores-dev.json").read_text())["metrics"] == scores
    saved = open_run(run)
    assert saved.objective().config.frozen
    kept = Checkpoints(run)._arrays(saved.step, "train")
    assert not [path for path in kept if "encoder" in path]  # no moments are kept for it


def test_layers_that_a_small_encoder_has_not(bertjax, home, pretrained, tmp_path):
    command = f"finetune {home}/finetune.py --task sms_spam --from {pretrained} --data {home} --out {tmp_path}/run"
    outcome = bertjax(*f"{command} --features sum-last-four".split())
    assert outcome.code == 2 and "features=sum-last-four but the encoder has 1 layers" in outcome.err
    outcome = bertjax(*f"{command} --frozen --new-layers 1".split())
    assert outcome.code == 2 and "leave out --encoder random and --frozen" in outcome.err


@pytest.mark.parametrize("head", ["classify", "span", "tag"])
@pytest.mark.parametrize("which", ["last", "sum-last-four", "concat-last-four"])
def test_heads_see_the_layers_asked_for(head, which):
    model = Config(vocab_size=9, width=8, layers=5, heads=2, mlp_width=8, max_length=8)
    objective = supervised.Config(3, 0.0, head, features=which).build(model)
    params = jax.device_put(init_params(objective, seed=0))
    tokens = jnp.array([[1, 5, 6, 2]])
    ones = jnp.ones_like(tokens)
    batch = {"tokens": tokens, "types": 0 * ones, "sequence": ones, "positions": jnp.arange(4)[None]}
    batch["first_tokens"] = jnp.zeros((1, 1), int)
    encoded, pooled = objective.apply({"params": params}, batch, method="encode")
    layers = [np.asarray(layer) for layer in encoded.layers]
    seen = {
        "last": layers[5],
        "sum-last-four": layers[2] + layers[3] + layers[4] + layers[5],
        "concat-last-four": np.concatenate(layers[2:], axis=-1),
    }[which]
    np.testing.assert_allclose(chosen_layers(encoded.layers, which), seen, rtol=1e-6)
    layer = params["pooler" if head == "classify" else head]
    got = pooled if head == "classify" else objective.apply({"params": params}, batch, method="logits")
    expected = seen @ layer["kernel"] + layer["bias"]
    np.testing.assert_allclose(got, np.tanh(expected[:, 0]) if head == "classify" else expected, atol=1e-5)


@pytest.mark.slow
def test_concatenated_features_from_a_run(bertjax, home, data, tmp_path):
    recipe = (home / "pretrain.py").read_text().replace("layers=1", "layers=4").replace("steps=16", "steps=1")
    (tmp_path / "pretrain.py").write_text(recipe)
    assert bertjax("pretrain", tmp_path / "pretrain.py", "--data", data, "--out", tmp_path / "base").code == 0
    command = f"finetune {home}/finetune.py --task sms_spam --from {tmp_path}/base --data {home} --out {tmp_path}/run"
    outcome = bertjax(*f"{command} --features concat-last-four --frozen --epochs 1".split())
    assert outcome.code == 0, outcome.err
    assert parameters(tmp_path / "run", ["pooler"])[1].shape == (128, 32)
    assert load(tmp_path / "run").embed(TEXTS, features="concat-last-four").shape == (5, 128)
    outcome = bertjax("convert", "--from", tmp_path / "run", "--to", tmp_path / "hf")
    assert outcome.code == 2 and "has a head on concat-last-four" in outcome.err
    (tmp_path / "in.tsv").write_text("a cat\n")
    assert bertjax("predict", tmp_path / "run", "--input", tmp_path / "in.tsv", "--out", tmp_path / "o.tsv").code == 0


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_vectors_are_those_of_each_text_alone(bertjax, pretrained, tmp_path, pooling):
    (tmp_path / "texts.txt.gz").write_bytes(gzip.compress("\n".join(TEXTS).encode()))
    command = f"embed {pretrained} --input {tmp_path}/texts.txt.gz --out {tmp_path}/new/v.npy --pooling {pooling}"
    outcome = bertjax(*command.split(), "--batch-size", 2)
    assert outcome.code == 0 and "5 vectors of 32 numbers" in outcome.err
    vectors = np.load(tmp_path / "new/v.npy")
    assert vectors.dtype == np.float32 and vectors.shape == (5, 32)
    model = load(pretrained)
    for text, vector in zip(TEXTS, vectors, strict=True):
        hidden = model(**model.tokenize([text])).last_hidden_state[0]
        pooled = {"mean": hidden.mean(0), "cls": hidden[0], "max": hidden.max(0)}[pooling]
        np.testing.assert_allclose(vector, pooled, atol=1e-5)


def test_max_is_over_real_tokens():
    hidden, mask = jnp.array([[[-1.0], [-2.0], [5.0]]]), jnp.array([[True, True, False]])
    assert POOLINGS["max"](hidden, mask).tolist() == [[-1.0]]


def test_a_checkpoint_that_is_deleted_while_it_is_read(bertjax, pretrained, tmp_path, monkeypatch):
    run = shutil.copytree(pretrained, tmp_path / "run")
    (tmp_path / "in.txt").write_text("a\n")
    deleted, read = [], Checkpoints.params

    def params(self, step, like):
        if not deleted:
            deleted.append(step)
            shutil.rmtree(run / "checkpoints" / str(step))
        return read(self, step, like)

    monkeypatch.setattr(Checkpoints, "params", params)
    outcome = bertjax("embed", run, "--input", tmp_path / "in.txt", "--out", tmp_path / "v.npy")
    assert outcome.code == 0 and deleted and np.load(tmp_path / "v.npy").shape == (1, 32), outcome.err


def test_mistakes_of_embed(bertjax, pretrained, tmp_path):
    (tmp_path / "in.txt").write_text("a\n")
    base = f"embed {pretrained} --input {tmp_path}/in.txt --out {tmp_path}/v.npy"
    for options, said in (
        ("--pooling sum", "cls"),
        ("--batch-size 0", "batch_size=0"),
        ("--features sum-last-four", "has 1 layers"),
    ):
        outcome = bertjax(*f"{base} {options}".split())
        assert outcome.code == 2 and said in outcome.err
    outcome = bertjax("embed", pretrained, "--input", tmp_path / "no.txt", "--out", tmp_path / "v.npy")
    assert outcome.code == 2 and "there is no such file" in outcome.err
    with pytest.raises(ConfigError, match="has 1 layers"):
        load(pretrained).embed(TEXTS, features="concat-last-four")
