"""A manifest finds every change of a folder, and names the file."""

import errno
import json
import os
import random
import shutil

import pytest
from disks import refuse_to_read

from bertjax.errors import AccessError, StorageError
from bertjax.train import manifest

FILES = {"extra/metadata": 300, "encoder/d/0a": 4000, "encoder/d/0b": 1, "encoder/_METADATA": 90, "train/d/0c": 2000}
ALL = {"encoder", "extra", "train"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with a manifest; not to be changed."""
    folder, rng = tmp_path_factory.mktemp("whole") / "7", random.Random(0)
    for name, size in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(rng.randbytes(size))
    manifest.write(folder)
    (folder / "commit_success.txt").write_text("written by Orbax when the manifest is done")
    return folder


@pytest.fixture
def folder(tmp_path, whole):
    return shutil.copytree(whole, tmp_path / "7")


def damage(folder, rng):
    """One random change of one file: its name."""
    name = rng.choice(sorted(FILES))
    path, kind = folder / name, rng.choice(["flip", "flip", "cut", "delete", "grow"])
    data = bytearray(path.read_bytes())
    if kind == "delete":
        path.unlink()
        return name
    if kind == "flip":
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del data[rng.randrange(len(data)) :]
    else:
        data += rng.randbytes(rng.randrange(1, 9))
    path.write_bytes(data)
    return name


def test_a_whole_folder(whole):
    assert manifest.parts(whole) == ALL
    assert manifest.faults(whole, ALL) == []


def test_every_change_is_found(folder):
    rng, before = random.Random(1), {name: (folder / name).read_bytes() for name in FILES}
    for _ in range(100):
        name = damage(folder, rng)
        (fault,) = manifest.faults(folder, ALL)
        assert fault.startswith(f"{name}: ")
        assert manifest.faults(folder, ALL - {name.partition("/")[0]}) == []  # the others can be read
        (folder / name).write_bytes(before[name])
    assert manifest.faults(folder, ALL) == []


def test_every_bit_of_the_manifest_counts(folder):
    data = (folder / manifest.NAME).read_bytes()
    rng, harmless = random.Random(2), 0
    for _ in range(100):
        at = rng.randrange(len(data))
        (folder / manifest.NAME).write_bytes(data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :])
        found = manifest.faults(folder, ALL)
        assert found == [] or [line.partition(":")[0] for line in found] == [manifest.NAME]
        harmless += not found
    assert harmless <= 5  # a line break that became another white space


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda folder: (folder / "encoder/d/0a").write_bytes(b"short"), "encoder/d/0a: 5 bytes, not 4,000"),
        (lambda folder: (folder / "encoder/d/0b").write_bytes(b""), "encoder/d/0b: 0 bytes, not 1"),
        (lambda folder: shutil.rmtree(folder / "extra"), "extra/metadata: missing"),
        (lambda folder: (folder / "train/d/0d").touch(), "train/d/0d: not of this checkpoint"),
        (lambda folder: (folder / "stray").touch(), "stray: not of this checkpoint"),
        (lambda folder: (folder / manifest.NAME).unlink(), "manifest.json: missing"),
        (lambda folder: (folder / manifest.NAME).write_text("{}"), "manifest.json: damaged ('files')"),
        (
            lambda folder: (folder / manifest.NAME).write_text("[" * 99999),
            "manifest.json: damaged (brackets in",
        ),
        (lambda folder: (folder / manifest.NAME).write_bytes(b"\xff"), "manifest.json: damaged ('utf-8' codec"),
    ],
)
def test_what_is_told(folder, change, fault):
    change(folder)
    (found,) = manifest.faults(folder, ALL)
    assert found.startswith(fault)


def test_a_part_that_is_not_there_is_still_a_part(folder):
    shutil.rmtree(folder / "encoder")
    assert manifest.parts(folder) == ALL
    assert len(manifest.faults(folder, ALL)) == 3


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.EIO, StorageError), (errno.ETIMEDOUT, StorageError), (errno.EACCES, AccessError)]
)
@pytest.mark.parametrize("name", ["encoder/d/0a", manifest.NAME])
def test_what_cannot_be_read_is_not_damaged(folder, monkeypatch, name, number, kind):
    (folder / "extra/metadata").unlink()
    refuse_to_read(monkeypatch, name, number)
    with pytest.raises(kind, match=f"{folder / name}: {os.strerror(number)}"):
        manifest.faults(folder, ALL)
    verdicts = list(manifest.verdicts(folder, ALL))
    assert isinstance(verdicts.pop(0), kind)
    assert verdicts == ([] if name == manifest.NAME else ["extra/metadata: missing"])


def test_what_cannot_be_listed_is_not_missing(folder, monkeypatch):
    scan = os.scandir

    def failing(path):
        if str(path).endswith("encoder/d"):
            raise OSError(errno.ESTALE, "Stale file handle", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", failing)
    with pytest.raises(StorageError, match="encoder/d: Stale file handle; mount the share again"):
        manifest.faults(folder, ALL)
    assert manifest.faults(folder, {"extra", "train"}) == []


def test_a_folder_in_the_place_of_a_file_is_damage(folder):
    (folder / manifest.NAME).unlink()
    (folder / manifest.NAME).mkdir()
    assert manifest.faults(folder, ALL) == ["manifest.json: cannot be read (Is a directory)"]


def test_a_later_form_is_not_taken_for_damage(folder):
    later = {**json.loads((folder / manifest.NAME).read_text()), "version": 3}
    (folder / manifest.NAME).write_text(json.dumps(later))
    (found,) = manifest.faults(folder, ALL)
    assert "version 3 is of a later bertjax" in found
