"""Every parser of foreign bytes as a function of the bytes of one file: what hypothesis and bench/fuzz.py both call.

A target writes the bytes into a folder, beside valid files where it takes several, and reads them as a verb would, and
uses what it has read. A UserError is an answer; any other exception is a fault of ours.
"""

import bz2
import gzip
import json
import struct
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import zstandard

from bertjax import saved
from bertjax.data import corpus, shards
from bertjax.data.blocks import Document, pack
from bertjax.data.contiguous import full_sentences
from bertjax.data.journal import Entry, Journal
from bertjax.data.masking import Vocab
from bertjax.data.meta import Meta
from bertjax.data.sources import START, CorpusSource
from bertjax.data.tally import Tally
from bertjax.data.tokenizer import Tokenizer
from bertjax.data.wordpiece import WordPiece
from bertjax.errors import UserError
from bertjax.hf import config_json, tensors, tf1
from bertjax.hf import read as hf_read

PROBE = [
    "The cat sat.",
    "",
    " a\u2028b\0 ﬁ",
    "x" * 300,
    "\ud800 [MASK] </s>",
    "고양이 " * 20,
]  # texts for any tokenizer
TF1_DATA = "bert_model.ckpt.data-00000-of-00001"
MODELS = Path(__file__).parents[1] / "hf" / "tf1"


def as_it_is(data: bytes) -> bytes:
    """No wrapping."""
    return data


@dataclass(frozen=True)
class Target:
    """A parser; `seeds` are contents of `file` that it takes, `beside` the other files of its folder."""

    file: str
    read: Callable[[Path], object]  # of the folder
    seeds: Callable[[], list[bytes]]
    beside: Callable[[], Mapping[str, bytes]] = dict
    wrap: Callable[[bytes], bytes] = as_it_is  # what is written for the bytes: with the right length, checksum ...
    heavy: bool = False  # tens of milliseconds a file

    def __call__(self, data: bytes) -> str:
        """The message that the file was refused with; "" where it was read."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for other, content in self.beside().items():
                (folder / other).parent.mkdir(parents=True, exist_ok=True)
                (folder / other).write_bytes(content)
            (folder / self.file).parent.mkdir(parents=True, exist_ok=True)
            (folder / self.file).write_bytes(self.wrap(data))
            try:
                self.read(folder)
            except UserError as error:
                return str(error)
            return ""

    def says_where(self, message: str) -> bool:
        """Whether a message names the file, or its folder."""
        return Path(self.file).name.split(".")[0] in message or tempfile.gettempdir() in message


def dumped(*values: object) -> Callable[[], list[bytes]]:
    """Each as a JSON file."""
    return lambda: [json.dumps(value, indent=1, ensure_ascii=False).encode() for value in values]


def lines(*values: object) -> bytes:
    """JSON lines."""
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values).encode()


# -- Hugging Face directories and Google's checkpoints ----------------------------------------------------------------


@cache
def _tensors(*names: str) -> bytes:
    from safetensors.numpy import save

    kinds = {"a": np.float32, "b": np.float16, "c": np.int8}
    return save({name: np.ones((2, 3), kinds[name]) for name in names})


def _read_tensors(folder: Path) -> None:
    found = tensors.Tensors(folder)
    for name in found.shapes:
        try:
            found.read(name)
        except UserError:
            continue  # of another kind


def _header(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + data + bytes(36)


BERT_CONFIG = {
    "architectures": ["BertForSequenceClassification"],
    "model_type": "bert",
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 128,
    "max_position_embeddings": 32,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "layer_norm_eps": 1e-12,
    "classifier_dropout": 0.1,
    "id2label": {"0": "ham", "1": "spam"},
    "finetuning_task": "text",
    "task_specific_params": {"text": {"settings": [], "columns": {"texts": ["a"], "files": ["x.tsv", "y.tsv"]}}},
}
ROBERTA_CONFIG = BERT_CONFIG | {"model_type": "roberta", "type_vocab_size": 1, "pad_token_id": 1, "id2label": None}


@cache
def _hf_files() -> Mapping[str, bytes]:
    """A Hugging Face directory."""
    from hf_directories import export

    with tempfile.TemporaryDirectory() as name:
        export(Path(name), "BertForSequenceClassification")
        return {path.name: path.read_bytes() for path in Path(name).iterdir()}


def _hf(folder: Path) -> None:
    """What every verb does with a directory that it is given."""
    assert hf_read.is_directory(folder)
    saved.open_run(folder)


def _hf_weights() -> tuple[bytes, bytes]:
    """The header and the rest of the directory's model.safetensors."""
    data = _hf_files()["model.safetensors"]
    end = 8 + struct.unpack("<Q", data[:8])[0]
    return data[8:end], data[end:]


def _hf_weighed(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + _hf_weights()[1]


TFDS = "tiny_texts/plain/1.2.0/"


@cache
def _tfds_files() -> Mapping[str, bytes]:
    """A data set of TFDS, prepared."""
    from helpers import prepare_tfds

    with tempfile.TemporaryDirectory() as name:
        prepare_tfds(Path(name), {"train": ["A cat sat.", "It ran."]})
        files = (path for path in Path(name).rglob("*") if path.is_file())
        return {str(path.relative_to(name)): path.read_bytes() for path in files}


def _tfds(folder: Path) -> None:
    specs = ["tfds:tiny_texts/plain:1.2.0"]
    corpus.identities(specs, str(folder))
    list(corpus.documents(specs, data_dir=str(folder), counts=Counter()))


@cache
def _tf1_block() -> bytes:
    data = (MODELS / "bert_model.ckpt.index").read_bytes()
    handle = data[-48:]
    _, at = tf1._varint(handle, tf1._varint(handle, 0)[1])
    ((_, value),) = tf1._block(data, *tf1._handle(handle, at))
    offset, size = tf1._handle(value, 0)
    return data[offset : offset + size]


def _tf1_table(block: bytes) -> bytes:
    """The table of a block of pairs, with checksums that are right."""

    def varint(number: int) -> bytes:
        return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + varint(number >> 7)

    def closed(block: bytes) -> bytes:
        return block + b"\0" + tf1._checksum(block + b"\0").to_bytes(4, "little")

    place = varint(0) + varint(len(block))
    index = bytes([0, 0, len(place)]) + place + bytes(4) + (1).to_bytes(4, "little")
    handles = varint(0) + varint(0) + varint(len(block) + 5) + varint(len(index))
    return closed(block) + closed(index) + handles.ljust(40, b"\0") + tf1._MAGIC


# -- tokenizers -------------------------------------------------------------------------------------------------------

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", ".", "##s", "a", "##b", "x", "##x"]
BYTES = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "Ġ", *"abchtes.", "th", "the", "Ġthe"]
MERGES = ["t h", "th e", "Ġ the"]


def use(tokenizer: Tokenizer) -> None:
    """All that is done with a tokenizer gives rows of its vocabulary."""
    for ids in tokenizer.encode_batch(PROBE):
        assert all(0 <= row < tokenizer.vocab_size for row in ids)
    tokenizer.encode_corpus(PROBE)
    tokenizer.decode(range(min(tokenizer.vocab_size, 1_000)))
    assert len(tokenizer.starts_word) == tokenizer.vocab_size
    assert Tokenizer.from_json(tokenizer.to_json()).hash == tokenizer.hash
    with tempfile.TemporaryDirectory() as name:
        tokenizer.save(name)
        assert Tokenizer.load(name).vocab_size == tokenizer.vocab_size


def _use(folder: Path) -> None:
    use(Tokenizer.load(folder))


def tokenizer_files() -> list[dict[str, object]]:
    """A tokenizer.json of each kind."""
    specials = [{"id": row, "content": name, "special": True} for row, name in enumerate(VOCABULARY[:5])]
    wordpiece = {
        "added_tokens": specials,
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {token: row for row, token in enumerate(VOCABULARY)},
        },
    }
    bpe = {
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
        "model": {"type": "BPE", "vocab": {token: row for row, token in enumerate(BYTES)}, "merges": MERGES},
    }
    unigram = {
        "added_tokens": [{"id": 0, "content": "<unk>", "special": True}],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}]},
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"},
        "model": {
            "type": "Unigram",
            "unk_id": 0,
            "vocab": [["<unk>", 0.0], *([piece, -1.0 - n] for n, piece in enumerate(["▁the", "▁", "c", "a", "t"]))],
        },
    }
    other = wordpiece | {"normalizer": {"type": "Replace", "pattern": {"String": "a"}, "content": "b"}}
    return [wordpiece, bpe, unigram, other, bpe | {"normalizer": {"type": "NFD"}}]


@cache
def _spiece() -> bytes:
    import base64

    texts = ["the cat sat on 9,000 mats", "a cat, the mat"] * 40
    made = Tokenizer.train(texts, 40, lowercase=True, kind="unigram").to_json()["model"]
    return base64.b64decode(made)


# -- corpora ----------------------------------------------------------------------------------------------------------

TEXT = "A cat sat.\nIt ran.\n\nDogs bark – loudly!\n\nThe end.\n".encode() * 3
WIKI = b'<doc id="1" url="u" title="Cats">\nCats\n\nCats sit &amp; run.\n</doc>\n' * 2
JSONL = lines({"text": "A cat sat.\nIt ran."}, {"text": "고양이", "id": 3}, {"text": ""}, {"text": "last"})
CAPS = corpus.Caps(line=64, document=500)


def _documents(folder: Path, caps: corpus.Caps = CAPS) -> None:
    """All documents: lines without ends, none of them blank, none much over the cap."""
    counts: Counter[str] = Counter()
    for document in corpus.documents([str(folder / "c.*")], caps=caps, counts=counts):
        assert document and all(line.strip() and "\n" not in line and len(line) < 2 * caps.line for line in document)
        assert len(document) == 1 or sum(map(len, document)) <= caps.document


@cache
def _parquet() -> bytes:
    import pyarrow
    from pyarrow import parquet

    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.table({"text": ["A cat sat.", None, "고양이"], "id": [1, 2, 3]}), sink)
    return sink.getvalue().to_pybytes()


# -- prepared data ----------------------------------------------------------------------------------------------------


@cache
def _prepared() -> Mapping[str, bytes]:
    """A prepared corpus, and the journal of one that was killed before the end."""
    words = VOCABULARY[5:9]
    documents = [[" ".join(words[: 1 + (i + j) % 4]) for j in range(5)] for i in range(8)]
    made = WordPiece(VOCABULARY, lowercase=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        meta = shards.write(documents, made, folder, held_out=0.3, seed=0, counts=Counter(), shard_tokens=30)
        entries = [Entry(split, shard, 2, Tally()) for split, files in meta.splits.items() for shard in files]
        head = {"inputs": "inputs", "tokenizer": made.hash}
        files = (path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): path.read_bytes() for path in files} | {
            "prepare.jsonl": lines(head, *map(asdict, entries))
        }


def _read_prepared(folder: Path) -> None:
    """What `pretrain` does with prepared data: meta.json, the tokenizer and a batch of each split."""
    meta = Meta.load(folder)
    tokenizer = Tokenizer.load(folder / "tokenizer")
    json.dumps([meta.content_hash, meta.vocab_size, meta.seed])
    for split in meta.splits:
        meta.total(split, "tokens")
    options = {"planner": full_sentences, "corruption": lambda batch, keys, progress: batch, "steps": 1}
    source = CorpusSource(folder, "train", length=16, batch_size=2, seed=0, vocab=Vocab.of(tokenizer), **options)
    batch = source.batch(START)
    assert batch["tokens"].shape == (2, 16) and batch["tokens"].max() < tokenizer.vocab_size


def _go_on(folder: Path) -> None:
    """What `prepare` does with the journal of one that was killed."""
    found = Journal(folder, "inputs")
    assert all(Path(entry.shard.name).name == entry.shard.name for entry in found.entries)
    json.dumps([asdict(entry) for entry in found.entries])
    sum((entry.tally for entry in found.entries), Tally())
    sum(entry.shard.tokens + entry.taken for entry in found.entries)
    list(found.remaining(("train", ["a"]) for _ in range(3)))
    found.tokenizer()


def _shard(data: bytes) -> bytes:
    """The bytes as the one record of a shard."""
    from array_record.python.array_record_module import ArrayRecordWriter

    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "shard"
        writer = ArrayRecordWriter(str(path), "group_size:1")
        writer.write(data)
        writer.close()
        return path.read_bytes()


def _read_shard(folder: Path) -> None:
    shard = shards.read_shard(folder / "train-00000.array_record")
    assert shard.sentence_starts[-1] == len(shard.tokens) and (np.diff(shard.sentence_starts) >= 0).all()
    assert shard.document_starts[-1] == len(shard.sentence_starts) - 1 and (np.diff(shard.document_starts) >= 0).all()


@cache
def _records() -> list[bytes]:
    documents = [Document(np.arange(9, dtype=width), np.array([4, 5], np.uint32)) for width in (np.uint16, np.uint32)]
    return [block for document in documents for block in pack([document, document])]


TARGETS: dict[str, Target] = {
    "safetensors": Target("model.safetensors", _read_tensors, lambda: [_tensors("a", "b"), _tensors("a", "c")]),
    "safetensors-header": Target("model.safetensors", _read_tensors, lambda: [_tensors("a", "b")[8:-36]], wrap=_header),
    "safetensors-index": Target(
        tensors.INDEX,
        _read_tensors,
        dumped({"metadata": {"total_size": 36}, "weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}),
        lambda: {"1.safetensors": _tensors("a"), "2.safetensors": _tensors("b")},
    ),
    "config.json": Target(
        "config.json", lambda folder: config_json.read(folder / "config.json"), dumped(BERT_CONFIG, ROBERTA_CONFIG)
    ),
    "bert_config.json": Target(
        tf1.CONFIG, lambda folder: config_json.read(folder / tf1.CONFIG), dumped(BERT_CONFIG | {"model_type": "bert"})
    ),
    "hf-config": Target("config.json", _hf, lambda: [_hf_files()["config.json"]], _hf_files, heavy=True),
    "hf-header": Target("model.safetensors", _hf, lambda: [_hf_weights()[0]], _hf_files, wrap=_hf_weighed, heavy=True),
    "tfds-info": Target(
        f"{TFDS}dataset_info.json",
        _tfds,
        lambda: [_tfds_files()[f"{TFDS}dataset_info.json"]],
        _tfds_files,
        heavy=True,
    ),
    "tfds-features": Target(
        TFDS + "features.json", _tfds, lambda: [_tfds_files()[TFDS + "features.json"]], _tfds_files, heavy=True
    ),
    "tf1-index": Target(
        "bert_model.ckpt.index",
        lambda folder: tf1.Tf1Tensors(folder / "bert_model.ckpt"),
        lambda: [(MODELS / "bert_model.ckpt.index").read_bytes()],
        lambda: {TF1_DATA: (MODELS / TF1_DATA).read_bytes()},
    ),
    "tf1-block": Target(
        "bert_model.ckpt.index",
        lambda folder: tf1.Tf1Tensors(folder / "bert_model.ckpt"),
        lambda: [_tf1_block()],
        lambda: {TF1_DATA: (MODELS / TF1_DATA).read_bytes()},
        wrap=_tf1_table,
    ),
    "vocab.txt": Target("vocab.txt", _use, lambda: ["\n".join(VOCABULARY).encode() + b"\n"]),
    "vocab.json": Target(
        "vocab.json",
        _use,
        dumped({token: row for row, token in enumerate(BYTES)}),
        lambda: {"merges.txt": "\n".join(MERGES).encode()},
    ),
    "merges.txt": Target(
        "merges.txt",
        _use,
        lambda: ["\n".join(["#version: 0.2", *MERGES]).encode() + b"\n"],
        lambda: {"vocab.json": json.dumps({token: row for row, token in enumerate(BYTES)}).encode()},
    ),
    "tokenizer.json": Target("tokenizer.json", _use, lambda: dumped(*tokenizer_files())()),
    "tokenizer_config.json": Target(
        "tokenizer_config.json",
        _use,
        dumped({"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 32}),
        lambda: {"vocab.txt": "\n".join(VOCABULARY).encode()},
    ),
    "spiece-config": Target(
        "tokenizer_config.json",
        _use,
        dumped({"tokenizer_class": "AlbertTokenizer", "do_lower_case": True, "keep_accents": False}),
        lambda: {"spiece.model": _spiece()},
    ),
    "spiece.model": Target("spiece.model", _use, lambda: [_spiece()]),
    "text": Target("c.txt", _documents, lambda: [TEXT, WIKI]),
    "text-wide": Target("c.txt", partial(_documents, caps=corpus.Caps(16, 1 << 20)), lambda: [TEXT, WIKI]),
    "jsonl": Target("c.jsonl", _documents, lambda: [JSONL]),
    "gz": Target("c.txt.gz", _documents, lambda: [gzip.compress(TEXT, mtime=0), gzip.compress(b"", mtime=0)]),
    "bz2": Target("c.txt.bz2", _documents, lambda: [bz2.compress(TEXT)]),
    "zst": Target("c.jsonl.zst", _documents, lambda: [zstandard.compress(JSONL)]),
    "parquet": Target("c.parquet", _documents, lambda: [_parquet()]),
    "meta.json": Target("meta.json", _read_prepared, lambda: [_prepared()["meta.json"]], _prepared),
    "prepare.jsonl": Target(
        "prepare.jsonl",
        _go_on,
        lambda: [_prepared()["prepare.jsonl"]],
        lambda: {name: data for name, data in _prepared().items() if name not in ("meta.json", "prepare.jsonl")},
    ),
    "shard": Target("train-00000.array_record", _read_shard, lambda: [_prepared()["train-00000.array_record"]]),
    "shard-record": Target("train-00000.array_record", _read_shard, _records, wrap=_shard),
}
