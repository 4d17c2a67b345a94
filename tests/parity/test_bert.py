"""BERT with every head: what we write transformers reads, what it writes we read, and both compute the same."""

from dataclasses import replace

import pytest
import torch
import transformers
from helpers import TINY
from hf_directories import BERT_CLASSES, TOKENIZER, export
from torch_models import check, load, rows

HIDDEN = {"last_hidden_state"}
NAMES = {
    "BertForPreTraining": {"pooler_output", "mlm_logits", "nsp_logits"},
    "BertForMaskedLM": {"mlm_logits"},
    "BertForSequenceClassification": {"pooler_output", "logits"},
    "BertForTokenClassification": {"logits"},
    "BertForQuestionAnswering": {"logits"},
    "BertForMultipleChoice": {"pooler_output", "logits"},
    "BertModel": {"pooler_output"},
}
WIDE = replace(TINY, width=48, heads=3, layers=3, mlp_width=80, max_length=40, type_count=3)


@pytest.mark.parametrize("model", [TINY, WIDE], ids=["tiny", "wide"])
@pytest.mark.parametrize("architecture", BERT_CLASSES)
def test_export(tmp_path, architecture, model):
    export(tmp_path, architecture, model)
    batch = rows(model)
    assert check(tmp_path, load(tmp_path, architecture), batch) == NAMES[architecture] | HIDDEN


@pytest.mark.parametrize("change", [{"activation": "gelu_tanh"}, {"activation": "relu"}, {"norm_epsilon": 0.1}])
def test_export_of_other_arithmetic(tmp_path, change):
    export(tmp_path, model=replace(TINY, **change))
    check(tmp_path, load(tmp_path, "BertForPreTraining"), rows(TINY))


def theirs(architecture, **changes):
    """A model of transformers' own, its parameters large enough to hide nothing."""
    options = {"vocab_size": 128, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    options |= {
        "intermediate_size": 72,
        "max_position_embeddings": 40,
        "num_labels": 2 if "Question" in architecture else 3,
        **changes,
    }
    torch.manual_seed(0)
    model = getattr(transformers, architecture)(transformers.BertConfig(**options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
    return model


@pytest.mark.parametrize("architecture", BERT_CLASSES)
def test_import(tmp_path, architecture):
    model = theirs(architecture)
    model.save_pretrained(tmp_path)
    TOKENIZER.save(tmp_path)
    assert check(tmp_path, model, rows(TINY)) == NAMES[architecture] | HIDDEN


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_act": "gelu_new"},
        {"hidden_act": "gelu_pytorch_tanh"},
        {"hidden_act": "relu"},
        {"layer_norm_eps": 1e-3},
        {"type_vocab_size": 1},
    ],
    ids=str,
)
def test_import_of_other_arithmetic(tmp_path, changes):
    model = theirs("BertForMaskedLM", **changes)
    model.save_pretrained(tmp_path)
    TOKENIZER.save(tmp_path)
    check(tmp_path, model, rows(replace(TINY, type_count=changes.get("type_vocab_size", 2))))


def test_import_of_shards(tmp_path):
    model = theirs("BertForPreTraining")
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    TOKENIZER.save(tmp_path)
    check(tmp_path, model, rows(TINY))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_import_of_half_precision_is_exact_in_float32(tmp_path, dtype):
    model = theirs("BertForPreTraining").to(dtype)
    model.save_pretrained(tmp_path)
    TOKENIZER.save(tmp_path)
    check(tmp_path, model.float(), rows(TINY))


def test_import_of_next_sentence_prediction_alone(tmp_path):
    model = theirs("BertForNextSentencePrediction")
    model.save_pretrained(tmp_path)
    TOKENIZER.save(tmp_path)
    assert check(tmp_path, model, rows(TINY)) == {"pooler_output", "last_hidden_state"}
