"""config.json: sizes both ways; whatever means another arithmetic is refused."""

import json
import re
from dataclasses import asdict, replace

import pytest
from helpers import TINY
from hf_directories import ROBERTA_TINY, configure

from bertjax.errors import ConfigError, DataError
from bertjax.hf import config_json
from bertjax.models import bert


@pytest.mark.parametrize("model", [*bert.PRESETS.values(), replace(TINY, activation="relu", norm_epsilon=1e-5)])
def test_sizes_come_back(tmp_path, model):
    (tmp_path / "config.json").write_text(json.dumps(config_json.describe(model, "BertModel", 0)))
    described = config_json.read(tmp_path / "config.json")
    assert asdict(described.model) == asdict(model)
    assert (described.family, described.architecture, described.labels) == (bert, "BertModel", ())


@pytest.mark.parametrize(
    ("theirs", "ours", "written"),
    [
        ("gelu", "gelu", "gelu"),
        ("gelu_new", "gelu_tanh", "gelu_new"),
        ("gelu_pytorch_tanh", "gelu_tanh", "gelu_new"),
        ("gelu_python", "gelu", "gelu"),
        ("relu", "relu", "relu"),
    ],
)
def test_activations(copied, theirs, ours, written):
    folder = copied()
    configure(folder, hidden_act=theirs)
    model = config_json.read(folder / "config.json").model
    assert model.activation == ours
    assert config_json.describe(model, "BertModel", 0)["hidden_act"] == written


def test_the_first_files_said_less(copied):
    folder = copied()
    configure(folder, model_type=None, layer_norm_eps=None, initializer_range=None, architectures=None)
    described = config_json.read(folder / "config.json")
    assert described.model == replace(TINY, dropout=0.0) and described.architecture == ""


def test_labels_and_the_dropout_of_the_head(copied):
    folder = copied()
    configure(folder, id2label={"0": "no", "1": "yes"}, classifier_dropout=0.25, finetuning_task="cola")
    described = config_json.read(folder / "config.json")
    assert (described.labels, described.head_dropout, described.task) == (("no", "yes"), 0.25, "cola")
    configure(folder, id2label={"0": "LABEL_0", "1": "LABEL_1"}, classifier_dropout=None)
    assert config_json.read(folder / "config.json").labels == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "model_type 'gpt2' is not known here; choose from: bert, camembert, roberta"),
        ({"model_type": ["bert"]}, "is not known here"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'; only 'absolute'"),
        ({"is_decoder": True}, "is_decoder is True"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads is"),
        ({"hidden_act": "silu"}, "hidden_act 'silu' is not known here; choose from: gelu"),
        ({"hidden_act": None}, "hidden_act is missing"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"hidden_size": "32"}, "hidden_size is '32', not a whole number"),
        ({"hidden_size": 33}, "model.width=33 is not a multiple of model.heads=2"),
        ({"hidden_size": 10**12}, "hidden_size is 1000000000000"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000, not a whole number from 1 to 1,000"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True"),
        ({"vocab_size": -1}, "vocab_size is -1"),
        ({"layer_norm_eps": "tiny"}, "layer_norm_eps is 'tiny'"),
        ({"hidden_dropout_prob": 1}, "model.dropout=1.0 is not a probability"),
        ({"hidden_dropout_prob": float("nan")}, "hidden_dropout_prob is nan"),
        ({"id2label": {"0": "a", "2": "b"}}, "id2label is not a name for each of 0 to 1"),
        ({"id2label": ["a", "b"]}, "id2label is not a name"),
        ({"id2label": {"0": "a", "1": "a"}}, "id2label has a name twice"),
    ],
)
def test_what_is_refused(copied, change, message):
    folder = copied()
    configure(folder, **change)
    with pytest.raises(DataError, match=re.escape(message)) as error:
        config_json.read(folder / "config.json")
    assert "config.json: " in str(error.value)


def test_the_head_of_roberta_has_one_activation(copied):
    folder = copied("RobertaForMaskedLM")
    configure(folder, hidden_act="gelu_new")
    with pytest.raises(DataError, match=r"hidden_act is 'gelu_new'; only 'gelu' is known here"):
        config_json.read(folder / "config.json")
    with pytest.raises(ConfigError, match=r"roberta of transformers has only hidden_act 'gelu', not 'relu'"):
        config_json.describe(replace(ROBERTA_TINY, activation="relu"), "RobertaModel", 1)


@pytest.mark.parametrize(("kind", "prefix"), [("xlm-roberta", "XLMRoberta"), ("camembert", "Camembert")])
def test_roberta_by_another_name(copied, kind, prefix):
    folder = copied("RobertaForMaskedLM")
    configure(folder, model_type=kind, architectures=[f"{prefix}ForMaskedLM"])
    described = config_json.read(folder / "config.json")
    assert described.model == ROBERTA_TINY and described.architecture == "RobertaForMaskedLM"
