"""pretrain --from: a run begins with the weights of another, or of a Hugging Face directory, on text of its own."""

import json

import jax
import numpy as np
import pytest

from bertjax import session
from bertjax.saved import open_run
from bertjax.train.mesh import MeshConfig, make_mesh


@pytest.fixture(scope="module")
def directory(pretrained, tmp_path_factory):
    """The run as a Hugging Face directory."""
    from bertjax import cli

    to = tmp_path_factory.mktemp("hf") / "hf"
    assert cli.run(["convert", "--from", str(pretrained), "--to", str(to)]) == 0
    return to


@pytest.fixture
def command(home, data, tmp_path):
    return [
        "pretrain",
        home / "pretrain.py",
        "--data",
        data,
        "--out",
        tmp_path / "run",
        "--steps",
        2,
        "--eval-batches",
        1,
    ]


def equal(trees, others):
    pairs = zip(jax.tree.leaves(trees), jax.tree.leaves(others), strict=True)
    return all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs)


def stored(path):
    saved = open_run(path)
    return saved.params(saved.objective(), make_mesh(MeshConfig(data=1)))


@pytest.fixture
def begun(monkeypatch, bertjax):
    """begun(command) -> the parameters that a run begins with."""

    def call(command):
        found = {}

        def caught(*arguments, **options):
            found.update(arguments[1].params)
            raise KeyboardInterrupt

        monkeypatch.setattr(session, "fit", caught)
        assert bertjax(*command).code == 130
        return found

    return call


@pytest.mark.parametrize("kind", ["run", "directory", "fine-tuned run"])
def test_it_begins_with_those_weights(begun, command, pretrained, finetuned, directory, kind):
    source = {"run": pretrained, "directory": directory, "fine-tuned run": finetuned}[kind]
    found, wanted = begun([*command, "--from", source]), stored(source)
    assert found.keys() == {"encoder", "pooler", "mlm", "nsp"}
    shared = found.keys() & wanted.keys()
    assert shared == ({"encoder", "pooler"} if kind == "fine-tuned run" else found.keys())
    assert all(equal(found[name], wanted[name]) for name in shared)


def test_heads_that_it_has_not_begin_anew(begun, command, pretrained):
    found, wanted = (
        begun([*command, "--from", pretrained, "--objective.examples", "full-sentences"]),
        stored(pretrained),
    )
    assert found.keys() == {"encoder", "mlm"} and equal(found["mlm"], wanted["mlm"])


def test_its_model_is_that_of_the_source_whatever_the_recipe_says(bertjax, command, home, tmp_path, directory):
    recipe = tmp_path / "wide.py"
    recipe.write_text(
        (home / "pretrain.py").read_text().replace("width=32", "width=64").replace("max_length=40", "max_length=32")
    )
    options = ["--from", directory, "--model.dropout", 0.25, "--length", 40]
    outcome = bertjax("pretrain", recipe, *command[2:], *options)
    assert outcome.code == 0, outcome.err
    assert f"encoder, mlm, nsp, pooler from {directory}; what else there is begins at random" in outcome.err
    model = json.loads((tmp_path / "run/config.json").read_text())["model"]
    assert (model["width"], model["max_length"], model["dropout"]) == (32, 40, 0.25)
    again = bertjax("pretrain", recipe, *command[2:], *options)
    assert again.code == 0 and "it is done" in again.err
    other = bertjax(*command, *options[2:])
    assert other.code == 2 and f"--from: was '{directory}', now ''" in other.err
    assert open_run(tmp_path / "run").config.source == str(directory)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--model.width", 64], "--model.width: the model is that of --from"),
        (["--preset=tiny"], "--preset: the model is that of --from"),
        (["--length", 48], "length=48 must lie between 8 and model.max_length=40"),
    ],
)
def test_what_its_model_cannot_be(bertjax, command, pretrained, options, told):
    outcome = bertjax(*command, "--from", pretrained, *options)
    assert outcome.code == 2 and told in outcome.err


@pytest.mark.parametrize("kind", ["run", "directory"])
def test_the_data_must_have_its_vocabulary(bertjax, command, home, tmp_path, pretrained, directory, kind):
    source = {"run": pretrained, "directory": directory}[kind]
    tokenizer = {"run": pretrained / "tokenizer", "directory": directory}[kind]
    prepare = ["prepare", "--corpus", home / "corpus.txt", "--out"]
    assert bertjax(*prepare, tmp_path / "other", "--vocab-size", 64).code == 0
    outcome = bertjax(*command, "--from", source, "--data", tmp_path / "other")
    told = f"has another vocabulary than {tmp_path}/other; prepare the data with --tokenizer {tokenizer}"
    assert outcome.code == 2 and told in outcome.err
    assert bertjax(*prepare, tmp_path / "same", "--tokenizer", tokenizer, "--held-out", 0.15).code == 0
    outcome = bertjax(*command, "--from", source, "--data", tmp_path / "same", "--dry-run")
    assert outcome.code == 0 and "cut up in another way" not in outcome.err, outcome.err


def test_a_plan_needs_the_data_beside_it(bertjax, home, pretrained):
    outcome = bertjax("plan", home / "pretrain.py", "--topology", "local", "--from", pretrained)
    assert outcome.code == 2 and "give --data too" in outcome.err
