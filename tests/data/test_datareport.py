import json
from collections import Counter
from html.parser import HTMLParser

import numpy as np

from bertjax.data import corpus, shards
from bertjax.data.blocks import Document
from bertjax.data.datareport import page
from bertjax.data.encode import Encoded
from bertjax.data.meta import Meta
from bertjax.data.tally import EMPTY_DOCUMENTS, EMPTY_SENTENCES, Tally


class Page(HTMLParser):
    """Checks that every element is closed, and gathers names and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.names, self.text = [], Counter(), ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.names[tag] += 1
        assert not {"src", "href"} & dict(attributes).keys()
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def item(lengths, words=1, dropped=0, token=9):
    return Encoded(
        "train", Document(np.full(sum(lengths), token, np.uint16), np.array(lengths, np.uint32)), words, dropped
    )


def test_tallies_add_up():
    items = [item([1, 2, 3, 4], words=7), item([7, 8], token=1), item([], dropped=3), item([255, 256], dropped=1)]
    tally = Tally.of(items, unk_id=1)
    assert (tally.words, tally.unknown) == (10, 15)
    assert tally.dropped == {EMPTY_SENTENCES: 4, EMPTY_DOCUMENTS: 1}
    assert tally.sentence_lengths[:10] == [1, 2, 2, 1, 0, 0, 0, 1, 1, 0]
    assert tally.document_lengths[:10] == [0, 0, 0, 2, 0, 0, 0, 0, 1, 0]
    assert Tally.of(items[:1], 1) + Tally.of(items[1:3], 1) + Tally.of(items[3:], 1) == tally
    assert Tally() + tally == tally and Tally.of([], 1) == Tally()


def test_report_of_a_corpus(prepared, documents, tokenizer):
    report, meta = json.loads((prepared / "report.json").read_text()), Meta.load(prepared)
    ids = [tokenizer.encode_batch(document) for document in documents]
    lengths = [len(row) for document in ids for row in document]
    assert report["splits"]["train"] == {
        "documents": meta.total("train", "documents"),
        "sentences": meta.total("train", "sentences"),
        "tokens": meta.total("train", "tokens"),
        "shards": len(meta.splits["train"]),
    }
    mean = meta.total("train", "sentences") / meta.total("train", "documents")
    assert report["sentences_a_document"] == round(mean, 4) > 2
    words = sum(len(sentence.split()) for document in documents for sentence in document)
    assert report["words"] == words and report["fertility"] == round(sum(lengths) / words, 4)
    assert report["unknown"] == sum(row.count(tokenizer.unk_id) for document in ids for row in document)
    for bucket in report["sentence_lengths"]:
        assert bucket["count"] == sum(bucket["from"] <= size <= bucket["to"] for size in lengths)
    assert sum(bucket["count"] for bucket in report["document_lengths"]) == len(documents)
    known = {tuple(tokenizer.tokens(sentence)) for document in documents for sentence in document}
    assert 6 <= len(report["samples"]) <= 12 and {tuple(row) for row in report["samples"]} <= known
    assert report["counts"] == meta.counts and report["vocabulary"] == tokenizer.vocab_size


def test_page_is_whole_and_escapes_what_it_shows(prepared):
    report = json.loads((prepared / "report.json").read_text())
    shown = Page((prepared / "report.html").read_text(encoding="utf-8"))
    assert "Prepared corpus" in shown.text and f"{report['words']:,}" in shown.text
    assert shown.names["code"] == sum(map(len, report["samples"]))
    assert "script" not in shown.names
    evil = Page(page({**report, "samples": [["<script>", "한국&amp;"]], "counts": {"<img>": 3}}))
    assert not {"script", "img"} & evil.names.keys()
    assert "<script>" in evil.text and "한국&amp;" in evil.text and "<img>" in evil.text


def test_unknown_tokens_and_long_samples(tokenizer, tmp_path):
    text = [["the cat 한국."], ["the " * 500], ["a dog."]]
    shards.write(text, tokenizer, tmp_path, held_out=0.0, seed=0, counts=Counter(), sentences=corpus.sentences)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["unknown"] == 1
    assert report["unknown_rate"] == round(1 / report["splits"]["train"]["tokens"], 6)
    assert sorted(map(len, report["samples"]))[-1] == shards.SAMPLE_TOKENS
    assert report["splits"]["valid"] == {"documents": 0, "sentences": 0, "tokens": 0, "shards": 0}
