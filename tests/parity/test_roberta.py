"""RoBERTa: positions counted from the padding's id, one type, heads of its own."""

import pytest
import torch
import transformers
from hf_directories import BPE, ROBERTA_CLASSES, ROBERTA_TINY, export
from torch_models import check, load, rows
from transformers import AutoTokenizer

from bertjax.hf.read import read

NAMES = {
    "RobertaForMaskedLM": {"mlm_logits"},
    "RobertaForSequenceClassification": {"logits"},
    "RobertaForTokenClassification": {"logits"},
    "RobertaForQuestionAnswering": {"logits"},
    "RobertaForMultipleChoice": {"pooler_output", "logits"},
    "RobertaModel": {"pooler_output"},
}


@pytest.mark.parametrize("architecture", ROBERTA_CLASSES)
def test_export(tmp_path, architecture):
    export(tmp_path, architecture)
    batch = rows(ROBERTA_TINY)
    assert check(tmp_path, load(tmp_path, architecture), batch) == NAMES[architecture] | {"last_hidden_state"}


OTHERS = ["XLMRobertaForMaskedLM", "CamembertForMaskedLM"]


@pytest.mark.parametrize("architecture", [*ROBERTA_CLASSES, *OTHERS])
def test_import(tmp_path, architecture):
    options = {"vocab_size": 128, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    options |= {"intermediate_size": 72, "max_position_embeddings": 42, "type_vocab_size": 1}
    options["num_labels"] = 2 if "Question" in architecture else 3
    torch.manual_seed(0)
    kind = getattr(transformers, architecture)
    model = kind(kind.config_class(layer_norm_eps=1e-5, **options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
    model.save_pretrained(tmp_path)
    BPE.save(tmp_path)
    expected = {"mlm_logits"} if architecture in OTHERS else NAMES[architecture]
    assert check(tmp_path, model, rows(ROBERTA_TINY)) == expected | {"last_hidden_state"}


def test_pairs(tmp_path):
    export(tmp_path, "RobertaModel")
    theirs = AutoTokenizer.from_pretrained(tmp_path)("abc jab", "dig")
    tokens, _ = BPE.pair_ids(*BPE.encode_batch(["abc jab", "dig"]))
    assert theirs["input_ids"] == tokens.tolist() and "token_type_ids" not in theirs


def test_the_tokenizer_that_transformers_writes(tmp_path):
    export(tmp_path / "out", "RobertaModel")
    BPE.save(tmp_path)
    theirs = transformers.RobertaTokenizerFast.from_pretrained(tmp_path)
    for name in ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (tmp_path / "out" / name).unlink()
    theirs.save_pretrained(tmp_path / "out")
    ours = read(tmp_path / "out").tokenizer
    for a, b in (("abc jab", "dig"), (" a  b", "chief cab")):
        assert ours.pair_ids(*ours.encode_batch([a, b]))[0].tolist() == theirs(a, b)["input_ids"]
