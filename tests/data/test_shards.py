import errno
import json
import multiprocessing
import os
import signal
import time
from collections import Counter
from itertools import chain, pairwise

import numpy as np
import pytest
from disks import refuse_to_read

from bertjax.data import blocks, encode, shards, tally
from bertjax.data.blocks import Document, pack, unpack
from bertjax.data.corpus import sentences
from bertjax.data.held_out import split
from bertjax.data.shards import Meta, read_shard, write
from bertjax.data.tokenizer import Tokenizer
from bertjax.data.wordpiece import WordPiece
from bertjax.errors import AccessError, ConfigError, DataError, LostWorker, StorageError


def prepare(documents, tokenizer, out, **options):
    defaults = {"held_out": 0.0, "seed": 1, "counts": Counter(), "shard_tokens": 1200}
    return write(documents, tokenizer, out, **{**defaults, **options})


def back_to_ids(shard):
    """Documents as lists of sentences, as lists of ids."""
    sentences = [part.tolist() for part in np.split(shard.tokens, shard.sentence_starts[1:-1])]
    starts = shard.document_starts.tolist()
    return [sentences[a:b] for a, b in pairwise(starts)]


def read_split(folder, split):
    meta = Meta.load(folder)
    return list(chain.from_iterable(back_to_ids(read_shard(folder / file.name)) for file in meta.splits[split]))


@pytest.mark.parametrize("block_tokens", [1, 7, 50, 10_000])
def test_blocks_come_back(monkeypatch, block_tokens):
    monkeypatch.setattr(blocks, "BLOCK_TOKENS", block_tokens)
    rng = np.random.default_rng(block_tokens)
    lengths = [rng.integers(1, 20, rng.integers(1, 30)).astype(np.uint32) for _ in range(12)]
    documents = [Document(rng.integers(0, 60_000, part.sum()).astype(np.uint16), part) for part in lengths]
    shard = unpack(pack(documents))
    assert shard.tokens.dtype == np.uint16
    assert (shard.tokens == np.concatenate([document.tokens for document in documents])).all()
    assert np.diff(shard.sentence_starts).tolist() == np.concatenate(lengths).tolist()
    assert np.diff(shard.document_starts).tolist() == [len(part) for part in lengths]
    assert (shard.sentence_starts.dtype, shard.document_starts.dtype) == (np.int64, np.int64)


def test_everything_is_written_once(prepared, documents, tokenizer):
    expected = sorted(tokenizer.encode_batch(document) for document in documents)
    train, valid = read_split(prepared, "train"), read_split(prepared, "valid")
    assert sorted(train + valid) == expected
    assert 2 <= len(valid) <= 14
    meta = Meta.load(prepared)
    assert (meta.tokenizer_hash, meta.vocab_size, meta.seed) == (tokenizer.hash, tokenizer.vocab_size, 1)
    assert meta.total("train", "documents") == len(train)
    assert meta.total("train", "tokens") == sum(len(sentence) for document in train for sentence in document)
    assert len(meta.splits["train"]) > 3
    assert all(file.documents >= 2 for file in meta.splits["train"])
    assert all(file.tokens >= 1200 for file in meta.splits["train"][:-1])
    assert Tokenizer.load(prepared / "tokenizer").hash == tokenizer.hash
    assert not list(prepared.glob("*.new"))


def test_the_same_input_gives_the_same_files(documents, tokenizer, tmp_path):
    for name in "ab":
        prepare(documents, tokenizer, tmp_path / name, held_out=0.1)
    a, b = (Meta.load(tmp_path / name) for name in "ab")
    assert a == b
    assert {file.sha256 for file in a.splits["train"]} == {file.sha256 for file in b.splits["train"]}


def test_a_last_document_joins_the_shard_before(tokenizer, tmp_path):
    text = [["the cat sat on the mat."] * 30] * 5
    meta = prepare(text, tokenizer, tmp_path, shard_tokens=100)
    assert [file.documents for file in meta.splits["train"]] == [2, 3]


def test_large_vocabularies_take_four_bytes(tmp_path):
    words = [f"w{i}" for i in range(70_000)]
    tokenizer = WordPiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words], lowercase=True)
    prepare([["w69999 w1"], ["w2"]], tokenizer, tmp_path)
    shard = read_shard(tmp_path / "train-00000.array_record")
    assert (shard.tokens.dtype, shard.tokens.tolist()) == (np.uint32, [70_004, 6, 7])


@pytest.mark.parametrize("count", range(2, 12))
@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.49])
def test_small_corpora_keep_two_documents_on_either_side(count, share):
    for seed in range(20):
        parts = Counter(side for side, _ in split([["a line"]] * count, share, seed))
        assert parts["train"] >= 2 and sum(parts.values()) == count
        assert parts["valid"] >= 2 if share and count >= 4 else parts["valid"] == 0


def test_the_held_out_share(documents):
    parts = Counter(side for side, _ in split(range(20_000), 0.05, 7))
    assert parts["valid"] / 20_000 == pytest.approx(0.05, abs=0.006)
    valid = [{number for side, number in split(range(500), 0.1, seed) if side == "valid"} for seed in (1, 1, 2)]
    assert valid[0] == valid[1] != valid[2]


def test_what_has_no_tokens_is_dropped_and_counted(tokenizer, tmp_path):
    text = [["the cat.", "\x00", "\u200b"], ["\u200b"], ["a dog."], ["\ufeff", "the mat."]]
    counts = Counter({"lines over": 3})
    heard = []
    meta = prepare(text, tokenizer, tmp_path, counts=counts, progress=lambda *now: heard.append(now))
    assert meta.counts == {"lines over": 3, tally.EMPTY_SENTENCES: 4, tally.EMPTY_DOCUMENTS: 1}
    assert heard[-1] == (3, meta.total("train", "tokens"))


@pytest.mark.parametrize("text", [[], [["\u200b"]]])
def test_no_text(tokenizer, tmp_path, text):
    with pytest.raises(DataError, match="no text"):
        prepare(text, tokenizer, tmp_path)
    with pytest.raises(DataError, match="not a prepared corpus"):
        Meta.load(tmp_path)


@pytest.mark.parametrize(
    "text, train, valid",
    [
        ([["the cat."]], [1], []),
        ([["the cat.", "\u200b"]], [1], []),
        ([["\u200b", "the cat."]], [1], []),
        ([["the cat."] * 5], [4], [1]),
        ([["the cat."] * 5, ["a dog."] * 2, ["a mat."] * 9], [4, 1, 7], [1, 1, 2]),
        ([["the cat."] * 5, ["a dog."]], [5, 1], []),
    ],
)
def test_few_documents_are_held_out_by_their_last_lines(tokenizer, tmp_path, text, train, valid):
    meta = prepare(text, tokenizer, tmp_path, held_out=0.2, shard_tokens=1)
    found = {split: [len(document) for document in read_split(tmp_path, split)] for split in ("train", "valid")}
    assert found == {"train": train, "valid": valid}
    assert [meta.total(split, "documents") for split in ("train", "valid")] == [len(train), len(valid)]


def test_nothing_is_overwritten(prepared, documents, tokenizer):
    with pytest.raises(ConfigError, match="holds a prepared corpus already"):
        prepare(documents, tokenizer, prepared)
    with pytest.raises(ConfigError, match=r"held_out=0\.5"):
        prepare(documents, tokenizer, prepared, held_out=0.5)


def test_interrupted_preparation_is_no_corpus(documents, tokenizer, tmp_path):
    def broken():
        yield from documents[:40]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(broken(), tokenizer, tmp_path)
    with pytest.raises(DataError, match="not a prepared corpus"):
        Meta.load(tmp_path)
    prepare(documents, tokenizer, tmp_path)


def test_a_long_line_is_no_slower_than_its_bytes(tokenizer, tmp_path):
    start = time.process_time()
    prepare([["x" * 1_000_000, "the cat"], ["the dog"]], tokenizer, tmp_path)
    assert time.process_time() - start < 10


def test_damaged_meta_and_shards(prepared, tmp_path):
    good = json.loads((prepared / "meta.json").read_text())
    for content, message in [
        ("{", "damaged"),
        ("[]", "damaged"),
        (json.dumps({**good, "version": 99}), "version 99, but this bertjax reads 1"),
        (json.dumps({**good, "surprise": 1}), "damaged"),
    ]:
        (tmp_path / "meta.json").write_text(content)
        with pytest.raises(DataError, match=f"{message}.*prepare.* again"):
            Meta.load(tmp_path)
    shard = tmp_path / "train-00000.array_record"
    with pytest.raises(DataError, match="cannot be read"):
        read_shard(shard)
    whole = (prepared / shard.name).read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cannot be read"):
        read_shard(shard)


@pytest.mark.parametrize(
    ("number", "kind"),
    [*((n, StorageError) for n in (errno.EIO, errno.ESTALE, errno.ETIMEDOUT)), (errno.EACCES, AccessError)],
)
def test_a_shard_that_cannot_be_read_now_is_not_damaged(prepared, monkeypatch, number, kind):
    def failing(file):
        raise RuntimeError(f"open() failed: {os.strerror(number)}; opening {file}")  # ArrayRecord's

    shard = prepared / "train-00000.array_record"
    monkeypatch.setattr(shards, "ArrayRecordReader", failing)
    refuse_to_read(monkeypatch, shard.name, number)
    with pytest.raises(kind, match=f"{shard}: {os.strerror(number)}"):
        read_shard(shard)


def test_shards_do_not_depend_on_the_number_of_workers(documents, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(encode, "ENCODED_AT_ONCE", 500)
    text = [*documents, ["\u200b", "the cat."], ["\u200b"], ["a dog. a bird."]]
    metas = [
        prepare(text, tokenizer, tmp_path / str(n), held_out=0.1, counts=Counter(), sentences=sentences, workers=n)
        for n in (0, 1, 3)
    ]
    assert metas[0] == metas[1] == metas[2]
    assert metas[0].counts == {tally.EMPTY_SENTENCES: 2, tally.EMPTY_DOCUMENTS: 1}
    assert len(metas[0].splits["train"]) > 3
    for name in (file.name for files in metas[0].splits.values() for file in files):
        contents = {(tmp_path / str(n) / name).read_bytes() for n in (0, 1, 3)}
        assert len(contents) == 1


class Dies:
    """Sentences whose making ends the process, or fails."""

    def __init__(self, how):
        self.how = how

    def __call__(self, lines):
        if lines[0] == "here":
            os.kill(os.getpid(), signal.SIGKILL) if self.how == "killed" else 1 / 0
        return lines


@pytest.mark.parametrize("how, error", [("killed", LostWorker), ("raises", ZeroDivisionError)])
def test_a_worker_that_dies_leaves_no_corpus(documents, tokenizer, tmp_path, how, error):
    text = [*documents, ["here"], *documents]
    with pytest.raises(error):
        prepare(text, tokenizer, tmp_path, sentences=Dies(how), workers=2)
    assert not multiprocessing.active_children()
    assert not (tmp_path / "meta.json").exists()


def test_documents_without_tokens_never_leave_a_split_of_one(tokenizer, tmp_path):
    for seed in range(12):
        text = [["the cat."], ["\u200b"], ["a dog."], ["\u200b"], ["the mat."]]
        meta = prepare(text, tokenizer, tmp_path / str(seed), held_out=0.3, seed=seed)
        sizes = {split: meta.total(split, "documents") for split in ("train", "valid")}
        assert sizes == {"train": 3, "valid": 0}, seed
