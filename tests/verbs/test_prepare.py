"""prepare from the command line: formats, caps, and what it says of them."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from helpers import prepare_tfds

from bertjax.data import formats, lines, shards
from bertjax.data.meta import Meta
from bertjax.data.tokenizer import Tokenizer


def test_formats_and_the_name_of_the_text(bertjax, home, data, tmp_path):
    documents = (home / "corpus.txt").read_text().split("\n\n")
    third = len(documents) // 3
    rows = "".join(json.dumps({"body": text}) + "\n" for text in documents[:third])
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(rows.encode()))
    pq.write_table(pa.table({"body": documents[third : 2 * third]}), tmp_path / "b.parquet")
    (tmp_path / "c.txt").write_text("\n\n".join(documents[2 * third :]))
    options = ["--vocab-size", 120, "--held-out", 0.15, "--shard-tokens", 150]
    outcome = bertjax("prepare", "--corpus", tmp_path / "*", "--text-column", "body", "--out", tmp_path / "o", *options)
    assert outcome.code == 0, outcome.err
    assert Meta.load(tmp_path / "o").content_hash == Meta.load(data).content_hash


def test_caps(bertjax, home, tmp_path, data):
    outcome = bertjax(
        *("prepare", "--corpus", home / "corpus.txt", "--out", tmp_path / "o", "--tokenizer", data / "tokenizer"),
        *("--max-line", 30, "--max-document", 60),
    )
    assert outcome.code == 0, outcome.err
    counts = Meta.load(tmp_path / "o").counts
    assert counts[lines.LONG] > 10 and counts[formats.CUT] > 40
    assert f"{formats.CUT}: {counts[formats.CUT]}" in " ".join(outcome.err.split())
    refused = bertjax("prepare", "--corpus", home / "corpus.txt", "--out", tmp_path / "n", "--max-document", 99)
    assert refused.code == 2 and "max_document=99 must be at least max_line=1048576" in refused.err


def test_duplicates(bertjax, home, data, tmp_path):
    (tmp_path / "twice.txt").write_text((home / "corpus.txt").read_text() + "\n" + (home / "corpus.txt").read_text())
    options = ["--corpus", tmp_path / "twice.txt", "--vocab-size", 120, "--held-out", 0.15, "--shard-tokens", 150]
    outcome = bertjax("prepare", *options, "--out", tmp_path / "o", "--deduplicate")
    assert outcome.code == 0 and "documents that came before (dropped): 40" in outcome.err
    assert Meta.load(tmp_path / "o").content_hash == Meta.load(data).content_hash
    outcome = bertjax("prepare", *options, "--out", tmp_path / "p")
    assert outcome.code == 0 and "documents that came before (kept; --deduplicate drops them): 40" in outcome.err
    assert Meta.load(tmp_path / "p").total("train", "documents") > 60


def test_workers(bertjax, home, data, tmp_path):
    options = ["--corpus", home / "corpus.txt", "--vocab-size", 120, "--held-out", 0.15, "--shard-tokens", 150]
    outcome = bertjax("prepare", *options, "--workers", 2, "--out", tmp_path / "o")
    assert outcome.code == 0, outcome.err
    for name in ("meta.json", "report.json", "report.html"):
        assert (tmp_path / "o" / name).read_bytes() == (data / name).read_bytes()
    assert f"{tmp_path}/o/report.html" in outcome.err.replace("\n", "")
    outcome = bertjax("prepare", *options, "--workers", -1, "--out", tmp_path / "n")
    assert outcome.code == 2 and "workers=-1 must be at least 0" in outcome.err


def test_a_vocabulary_of_a_sample(bertjax, home, data, tmp_path):
    options = ["--corpus", home / "corpus.txt", "--vocab-size", 120, "--out"]
    assert bertjax("prepare", *options, tmp_path / "o", "--sample-characters", 500).code == 0
    assert Meta.load(tmp_path / "o").tokenizer_hash != Meta.load(data).tokenizer_hash
    outcome = bertjax("prepare", *options, tmp_path / "n", "--sample-characters", -1)
    assert outcome.code == 2 and "sample_characters=-1 must be at least 0" in outcome.err


def test_a_text_that_gives_fewer_pieces_says_so(bertjax, home, tmp_path):
    options = ["--corpus", home / "corpus.txt", "--vocab-size"]
    outcome = bertjax("prepare", *options, 9000, "--out", tmp_path / "o")
    size = Meta.load(tmp_path / "o").vocab_size
    assert size < 9000 and f"vocabulary of {size:,}, all that the text gives of 9,000;" in outcome.err
    outcome = bertjax("prepare", *options, 64, "--out", tmp_path / "p")
    assert outcome.code == 0 and "vocabulary of 64; what is" in outcome.err


def test_a_data_set_of_tfds(bertjax, home, tmp_path):
    texts = (home / "corpus.txt").read_text().split("\n\n")
    prepare_tfds(tmp_path / "tfds", {"train": texts[:30], "rest": texts[30:]})
    options = ["--data-dir", tmp_path / "tfds", "--vocab-size", 120, "--held-out", 0.15]
    corpus = ["tfds:tiny_texts:rest", "tfds:tiny_texts/plain"]
    outcome = bertjax("prepare", "--corpus", *corpus, *options, "--out", tmp_path / "o")
    assert outcome.code == 0, outcome.err
    meta = Meta.load(tmp_path / "o")
    assert meta.total("train", "documents") + meta.total("valid", "documents") == len(texts)
    outcome = bertjax("prepare", "--corpus", "tfds:tiny", *options, "--out", tmp_path / "p")
    assert outcome.code == 2 and f"tfds build tiny --file_format array_record --data_dir {tmp_path}" in outcome.err
    assert not (tmp_path / "p").exists()


def test_killed_it_goes_on(bertjax, home, tmp_path, monkeypatch):
    (tmp_path / "corpus.txt").write_text(f"{(home / 'corpus.txt').read_text()}\n" * 40)
    options = ["--corpus", tmp_path / "corpus.txt", "--vocab-size", 120, "--shard-tokens", 1500]
    command = [
        sys.executable,
        "-m",
        "bertjax",
        "prepare",
        *map(str, options),
        "--workers",
        "1",
        "--out",
        str(tmp_path / "o"),
    ]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=Path(__file__).parents[2])
    while process.poll() is None and len(list((tmp_path / "o").glob("train-*.array_record"))) < 3:
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "it was done before it could be killed"
    other = bertjax("prepare", *options, "--held-out", 0.02, "--out", shutil.copytree(tmp_path / "o", tmp_path / "p"))
    assert other.code == 0 and "removes what a preparation of other text or with other options left" in other.err
    with monkeypatch.context() as patch:
        patch.setattr(Tokenizer, "train", None)  # it has been trained
        outcome = bertjax("prepare", *options, "--out", tmp_path / "o")
    assert outcome.code == 0 and "prepare: goes on from " in outcome.err, outcome.err
    assert bertjax("prepare", *options, "--out", tmp_path / "undisturbed").code == 0
    resumed, undisturbed = (
        {path.name: path.read_bytes() for path in (tmp_path / name).rglob("*") if path.is_file()}
        for name in ("o", "undisturbed")
    )
    assert resumed == undisturbed and len(resumed) > 10


@pytest.mark.parametrize(
    ("kind", "size"), [("wordpiece", 120), ("bpe", 300), ("unigram", 120), ("sentencepiece-bpe", 120)]
)
def test_every_kind_of_tokenizer_goes_to_the_workers_and_is_taken_up_again(
    bertjax, home, tmp_path, monkeypatch, kind, size
):
    options = ["--corpus", home / "corpus.txt", "--tokenizer-kind", kind, "--vocab-size", size, "--shard-tokens", 150]

    def killed(writers):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shards, "_finish", killed)
        assert bertjax("prepare", *options, "--out", tmp_path / "a").code == 130
    with monkeypatch.context() as patch:
        patch.setattr(Tokenizer, "train", None)  # it has been trained
        outcome = bertjax("prepare", *options, "--workers", 1, "--out", tmp_path / "a")
    assert outcome.code == 0 and "goes on from" in outcome.err, outcome.err
    assert bertjax("prepare", *options, "--out", tmp_path / "b").code == 0
    for name in ("meta.json", "report.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
