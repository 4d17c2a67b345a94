import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from functools import partial

import pytest
from helpers import prepare_tfds

from bertjax.data import corpus, lines
from bertjax.data.corpus import Caps, documents, identities
from bertjax.errors import ConfigError, DataError

TEXTS = [f"Document {i}. 한국 text.\nA second line" for i in range(300)] + ["", "word " * 50]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    prepare_tfds(folder, {"train": TEXTS, "test": TEXTS[:9]})
    assert "tensorflow" not in sys.modules
    return folder


def read(spec, data_dir, **options):
    counts = Counter()
    return list(documents([spec], data_dir=str(data_dir), counts=counts, **options)), counts


@pytest.mark.parametrize("name", ["tiny_texts", "tiny_texts/plain", "tiny_texts/plain:1.2.0", "tiny_texts:train"])
def test_a_data_set_is_read_without_tensorflow(data_dir, name):
    found, counts = read(f"tfds:{name}", data_dir)
    expected = [[line.strip() for line in text.split("\n")] for text in TEXTS if text]
    assert sorted(found) == sorted(expected) and found != expected  # TFDS shuffles what it prepares
    [(_, size, examples)] = identities([f"tfds:{name}"], str(data_dir))
    assert examples == len(TEXTS) and size > 5000
    assert counts == {corpus.EMPTY: 1, lines.BYTES: size}
    assert "tensorflow" not in sys.modules


def test_splits_and_their_slices(data_dir):
    every, _ = read("tfds:tiny_texts:train", data_dir)
    some, counts = read("tfds:tiny_texts/plain:1.2.0:train[:50]", data_dir)
    rest, _ = read("tfds:tiny_texts:train[50:]", data_dir)
    assert some + rest == every and len(some) + counts[corpus.EMPTY] == 50
    [(name, size, examples)] = identities(["tfds:tiny_texts:train[:50]"], str(data_dir))
    assert name.endswith("1.2.0:train[:50]") and examples == 50 and counts[lines.BYTES] == size
    assert len(read("tfds:tiny_texts:test", data_dir)[0]) == 9
    assert len(read("tfds:tiny_texts:test+train[:10]", data_dir)[0]) >= 18


def test_caps_and_duplicates_hold_here_too(data_dir):
    found, counts = read("tfds:tiny_texts", data_dir, caps=Caps(line=60, document=120), deduplicate=True)
    assert counts[lines.LONG] == 1 and max(len(line) for document in found for line in document) <= 60
    both = [
        *documents(["tfds:tiny_texts", "tfds:tiny_texts:test"], data_dir=str(data_dir), deduplicate=True, counts=counts)
    ]
    assert len(both) == 301 and counts[corpus.DUPLICATES] >= 9


def copied(data_dir, tmp_path, change):
    shutil.copytree(data_dir, tmp_path / "d")
    change(tmp_path / "d" / "tiny_texts" / "plain" / "1.2.0")
    return tmp_path / "d"


def as_tfrecord(folder):
    info = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps({**info, "fileFormat": "tfrecord"}))


def damage(folder):
    (path,) = folder.glob("*train*")
    path.write_bytes(path.read_bytes()[:4000] + b"\x00" * 3000 + path.read_bytes()[7000:])


def with_split(folder, **changed):
    info = json.loads((folder / "dataset_info.json").read_text())
    info["splits"][1] |= changed
    (folder / "dataset_info.json").write_text(json.dumps(info))


@pytest.mark.parametrize(
    "spec, message",
    [
        ("tfds:no_such", r"not prepared in .*--data-dir.*: tfds build no_such --file_format array_record --data_dir /"),
        ("tfds:tiny_texts/other:2.0.0", r"tfds build tiny_texts/other:2\.0\.0 --file_format"),
        ("tfds:tiny_texts:dev", r"no split 'dev'.*it has: train, test"),
        ("tfds:tiny_texts:train[", r"no split 'train\['"),
        ("tfds:", r"not of the form tfds:NAME"),
        ("tfds:a b", r"not of the form tfds:NAME"),
    ],
)
def test_what_is_not_there(data_dir, spec, message):
    with pytest.raises((DataError, ConfigError), match=message):
        read(spec, data_dir)


def test_a_bucket_without_its_library():
    """In a process of its own: where it was there once, other libraries keep it."""
    program = "import sys; sys.modules['gcsfs'] = None; from bertjax import cli; sys.exit(cli.run(sys.argv[1:]))"
    command = ["prepare", "--corpus", "tfds:tiny_texts", "--data-dir", "gs://bucket/tfds", "--out", "unused"]
    done = subprocess.run([sys.executable, "-c", program, *command], capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert re.search(r"tfds:tiny_texts: gs://bucket/tfds cannot be read: .*gcsfs", done.stderr), done.stderr


def test_what_cannot_be_read(data_dir, tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"no text 'label'; .*--text-column; it has: .*text \(Text\)"):
        read("tfds:tiny_texts", data_dir, text_column="label")
    with pytest.raises(DataError, match=r"1\.2\.0: prepared in a format that only TensorFlow reads.*tfds build tiny"):
        read("tfds:tiny_texts", copied(data_dir, tmp_path / "a", as_tfrecord))
    with pytest.raises(DataError, match=r"1\.2\.0: examples \d+ to \d+ of train cannot be read.*tfds build tiny"):
        read("tfds:tiny_texts", copied(data_dir, tmp_path / "b", damage))
    unnamed = partial(with_split, filepathTemplate="{DATASET}-{SPLIT}.{FILEFORMAT}-{OTHER}")
    with pytest.raises(DataError, match=r"its files have no names \(.*OTHER.*\); prepare it again: tfds build tiny"):
        read("tfds:tiny_texts", copied(data_dir, tmp_path / "c", unnamed))
    for name, changed in enumerate(({"filepathTemplate": "../{DATASET}-{SPLIT}.{FILEFORMAT}"}, {"name": "../../x"})):
        with pytest.raises(DataError, match="names files in other folders"):
            read("tfds:tiny_texts", copied(data_dir, tmp_path / f"e{name}", partial(with_split, **changed)))
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ConfigError, match=r"pip install 'bertjax\[tfds\]'"):
        read("tfds:tiny_texts", data_dir)
