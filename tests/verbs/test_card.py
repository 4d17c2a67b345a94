"""The model card: the facts of a run, none of the paths of who trained it, and front matter the hub can read."""

import json

import pytest
import yaml

from bertjax import card
from bertjax.data.tokenizer import Tokenizer
from bertjax.saved import open_run


def made(run, architecture, name="my-model"):
    text = card.card(open_run(run), name, architecture, 1_234)
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


def test_of_a_fine_tuned_run(finetuned, home):
    front, body = made(finetuned, "BertForSequenceClassification")
    assert (front["library_name"], front["pipeline_tag"]) == ("transformers", "text-classification")
    scores = json.loads((finetuned / "scores.json").read_text())
    (result,) = front["model-index"][0]["results"]
    assert result["dataset"]["name"] == "sms_spam"
    assert {m["type"]: m["value"] for m in result["metrics"]} == pytest.approx(scores["metrics"], abs=1e-6)
    for text in (
        "# my-model",
        "`BertForSequenceClassification` with 1,234 parameters: layers 1, width 32",
        "Labels, in the order of the logits: ham, spam.",
        "SMS Spam Collection (Almeida and Hidalgo 2011), CC BY 4.0",
        f"train: 64 rows, sha256 {scores['data']['train']['sha256']}",
        "- seed: `0`",
        '- optimizer.kind: `"adamw"`',
        '- source: `["pretrained"]`',
        "on the dev set of sms_spam",
    ):
        assert text in body, (text, body)
    assert str(home) not in body


def test_of_a_pretraining_run(pretrained, home):
    front, body = made(pretrained, "BertForPreTraining")
    assert front["pipeline_tag"] == "fill-mask" and "model-index" not in front
    figures = open_run(pretrained).figures
    assert f"| loss | {round(figures['loss'], 6)} |" in body and "on held-out text" in body
    assert '- objective.examples: `"nsp"`' in body and "- steps: `16`" in body
    assert str(home) not in body


def test_of_imported_weights(bertjax, finetuned, tmp_path):
    for source, to in ((finetuned, tmp_path / "hf"), (tmp_path / "hf", tmp_path / "run")):
        assert bertjax("convert", "--from", source, "--to", to).code == 0
    front, body = made(tmp_path / "run", "BertForSequenceClassification")
    assert "Not trained by bertjax: the weights were imported from `hf`." in body and "ham, spam" in body
    assert "## Results" not in body and "model-index" not in front


def test_a_vocabulary_of_which_there_is_no_tokenizer_json():
    texts = ["the cat sat on the mat"] * 30
    bpe, unigram = (Tokenizer.train(texts, 24, lowercase=True, kind=kind) for kind in ("sentencepiece-bpe", "unigram"))
    assert (
        "no tokenizer.json, as none can say what this model's spiece.model does (SentencePiece joins"
        in card._tokenizer(bpe)
    )
    assert card._tokenizer(unigram) == card.TOKENIZER
