"""`bertjax convert`: what goes out and comes back is the same, and serves wherever a run does."""

import json
import shutil

import numpy as np
import pytest
from helpers import logged
from hf_directories import configure
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from bertjax import api, cli, convert
from bertjax.use import Convert

TEXTS = ["the cat sat on the mat", "a dog"]


@pytest.fixture(scope="module")
def exported(home, pretrained, finetuned):
    """Directories of both runs; not to be changed."""
    made = {}
    for name, run in (("pretrained", pretrained), ("finetuned", finetuned)):
        made[name] = home / f"hf-{name}"
        assert cli.run(["convert", "--from", str(run), "--to", str(made[name])]) == 0
    return made


def parity(folder):
    return json.loads((folder / "parity.json").read_text())


def scores(folder, name="scores.json"):
    return json.loads((folder / name).read_text())["metrics"]


def test_a_directory_has_all_that_others_look_for(exported):
    folder = exported["pretrained"]
    names = "config.json model.safetensors parity.json special_tokens_map.json tokenizer.json tokenizer_config.json"
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", *names.split(), "vocab.txt"]
    with safe_open(folder / "model.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "pt"}
    config = json.loads((folder / "config.json").read_text())
    assert (config["architectures"], config["model_type"]) == (["BertForPreTraining"], "bert")
    assert all(path.stat().st_mode & 0o044 for path in folder.iterdir())


def test_parity_is_measured_on_every_output(exported, pretrained):
    found = parity(exported["pretrained"])
    assert found["from"] == str(pretrained) and found["equal"] and found["tokenizer_equal"]
    heads = ("last_hidden_state", "pooler_output", "mlm_logits", "nsp_logits")
    assert found["max_difference"] == dict.fromkeys(heads, 0.0)
    assert (found["arrays_not_bit_equal"], found["parts_without_use"]) == ([], [])
    assert found["parts"] == ["encoder", "mlm", "nsp", "pooler"]
    assert set(parity(exported["finetuned"])["max_difference"]) == {"last_hidden_state", "pooler_output", "logits"}


def test_a_directory_is_loaded_as_a_run_is(exported, pretrained):
    run, folder = api.load(pretrained), api.load(exported["pretrained"])
    np.testing.assert_array_equal(run.embed(TEXTS), folder.embed(TEXTS))
    assert run.fill_mask("the [MASK] sat") == folder.fill_mask("the [MASK] sat")
    assert api.load_tokenizer(exported["pretrained"]).hash == run.tokenizer.hash


def test_back_to_a_run(bertjax, exported, pretrained, tmp_path):
    done = bertjax("convert", "--from", exported["pretrained"], "--to", tmp_path / "run")
    assert done.code == 0 and "largest difference of any output 0" in done.out
    assert parity(tmp_path / "run")["equal"]
    np.testing.assert_array_equal(api.load(tmp_path / "run").embed(TEXTS), api.load(pretrained).embed(TEXTS))
    inspected = bertjax("inspect", tmp_path / "run")
    assert inspected.code == 0 and "encoder/embed/tokens/table" in inspected.out
    assert bertjax("convert", "--from", tmp_path / "run", "--to", tmp_path / "hf").code == 0
    first, again = (load_file(folder / "model.safetensors") for folder in (exported["pretrained"], tmp_path / "hf"))
    assert first.keys() == again.keys() and all(np.array_equal(first[name], again[name]) for name in first)


def test_inspect_of_a_directory(bertjax, exported):
    done = bertjax("inspect", exported["finetuned"])
    assert done.code == 0 and "classify/kernel" in done.out


def test_fine_tuning_from_a_directory_is_that_from_the_run(bertjax, exported, home, finetuned, tmp_path):
    options = ["--task", "sms_spam", "--data", home, "--out", tmp_path / "run"]
    assert bertjax("finetune", home / "finetune.py", "--from", exported["pretrained"], *options).code == 0
    assert logged(tmp_path / "run") == logged(finetuned)
    assert scores(tmp_path / "run") == scores(finetuned)


def test_evaluate_and_predict_take_a_fine_tuned_directory(bertjax, exported, home, finetuned, tmp_path):
    assert bertjax("evaluate", exported["finetuned"], "--data", home, "--out", tmp_path / "scores.json").code == 0
    assert scores(tmp_path) == scores(finetuned)
    (tmp_path / "in.tsv").write_text("free prize call now\nsee you later mum\n")
    for name, run in (("a.tsv", finetuned), ("b.tsv", exported["finetuned"])):
        assert bertjax("predict", run, "--input", tmp_path / "in.tsv", "--out", tmp_path / name).code == 0
    assert (tmp_path / "a.tsv").read_bytes() == (tmp_path / "b.tsv").read_bytes()


def test_the_labels_go_with_it(exported):
    config = json.loads((exported["finetuned"] / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert config["id2label"] == {"0": "ham", "1": "spam"} and config["label2id"] == {"ham": 0, "spam": 1}
    assert (config["problem_type"], config["finetuning_task"]) == ("single_label_classification", "sms_spam")
    assert json.loads((exported["finetuned"] / "tokenizer_config.json").read_text())["model_max_length"] == 24


@pytest.mark.parametrize(
    ("changes", "options", "messages"),
    [
        ({"finetuning_task": None}, [], ["does not say its task", "--task"]),
        ({}, ["--task", "cola"], ["was fine-tuned on sms_spam; leave out --task cola"]),
        ({"id2label": {"0": "spam", "1": "ham"}}, [], ["are spam, ham, those of sms_spam ham, spam", "id2label"]),
        ({"finetuning_task": "stsb"}, [], ["its head has 2 outputs, stsb has 1"]),
    ],
)
def test_a_head_of_another_task(bertjax, exported, home, tmp_path, changes, options, messages):
    folder = shutil.copytree(exported["finetuned"], tmp_path / "copy")
    configure(folder, **changes)
    done = bertjax("evaluate", folder, "--data", home, *options)
    assert done.code == 2 and all(message in done.err for message in messages), done.err


def test_labels_without_names_are_taken_in_order(bertjax, exported, home, finetuned, tmp_path):
    folder = shutil.copytree(exported["finetuned"], tmp_path / "copy")
    configure(folder, id2label=None, label2id=None, finetuning_task=None)
    assert bertjax("evaluate", folder, "--task", "sms_spam", "--data", home).code == 0
    assert scores(folder, "scores-dev.json") == scores(finetuned)


def test_heads_without_use_are_kept_in_the_run(bertjax, exported, tmp_path):
    folder = shutil.copytree(exported["pretrained"], tmp_path / "copy")
    tensors = load_file(folder / "model.safetensors")
    tensors = {name: array for name, array in tensors.items() if "seq_relationship" not in name}
    save_file(tensors, folder / "model.safetensors")
    outcome = bertjax("convert", "--from", folder, "--to", tmp_path / "run")
    assert outcome.code == 0 and f"nothing here has a use for pooler of {folder}: not compared" in outcome.out
    assert parity(tmp_path / "run")["parts_without_use"] == ["pooler"]
    assert "pooler" in [path.name for path in (tmp_path / "run/checkpoints/0").iterdir()]


def test_a_difference_is_an_error_and_nothing_is_written(pretrained, tmp_path, monkeypatch):
    write = convert.write

    def spoil(folder, **options):
        done = write(folder, **options)
        tensors = load_file(folder / "model.safetensors")
        tensors["bert.pooler.dense.bias"] = tensors["bert.pooler.dense.bias"] + 1
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return done

    monkeypatch.setattr(convert, "write", spoil)
    with pytest.raises(RuntimeError, match="is not what"):
        convert.convert(Convert(source=str(pretrained), to=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()
    assert parity(tmp_path / ".out.partial")["arrays_not_bit_equal"] == ["pooler/bias"]


def test_from_and_to_where_one_stands(bertjax, exported, tmp_path, monkeypatch):
    (tmp_path / "new").mkdir()
    monkeypatch.chdir(tmp_path / "new")
    assert bertjax("convert", "--from", exported["finetuned"], "--to", ".").code == 0
    monkeypatch.chdir(tmp_path / "new")
    assert bertjax("convert", "--from", ".", "--to", "../hf").code == 0
    assert [path.name for path in tmp_path.iterdir() if path.name != "new"] == ["hf"]
    monkeypatch.chdir(exported["finetuned"])
    assert bertjax("inspect", ".").code == 0


@pytest.mark.parametrize(
    ("command", "messages"),
    [
        ("convert --to {tmp}", ["missing: --from"]),
        ("convert --from {run} --to {home}", ["--to", "not an empty folder"]),
        ("convert --from {tmp}/nowhere --to {tmp}/out", ["no such run"]),
        ("convert --from {tmp} --to {tmp}/out", ["no checkpoints/"]),
        ("evaluate {hf} --data {home}", ["holds weights without a task's head", "bertjax finetune"]),
        ("report {hf}", ["scores.json", "finetune"]),
    ],
)
def test_mistakes(bertjax, exported, pretrained, home, tmp_path, command, messages):
    names = {"tmp": tmp_path, "run": pretrained, "home": home, "hf": exported["pretrained"]}
    done = bertjax(*command.format(**names).split())
    assert done.code == 2 and all(message in done.err for message in messages), done.err


def test_a_pickle_is_refused_with_the_cure(bertjax, exported, home, tmp_path):
    folder = shutil.copytree(exported["pretrained"], tmp_path / "copy")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    options = ["--task", "sms_spam", "--data", home, "--out", tmp_path / "run"]
    done = bertjax("finetune", home / "finetune.py", "--from", folder, *options)
    assert done.code == 2 and "safe_serialization=True" in done.err and not (tmp_path / "run").exists()
