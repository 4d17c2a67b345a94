"""What a full or broken disk causes is known, and told with the path."""

import errno
import os

import pytest

from bertjax import storage
from bertjax.errors import AccessError, StorageError

FULL = OSError(errno.ENOSPC, "No space left on device")


def caused(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (FULL, errno.ENOSPC),
        (OSError(errno.EROFS, "Read-only file system"), errno.EROFS),
        (caused(RuntimeError("a save failed"), FULL), errno.ENOSPC),
        (ValueError('RESOURCE_EXHAUSTED: Error writing "x": No space left on device [os_error_code=28]'), errno.ENOSPC),
        (RuntimeError("UNKNOWN: write failed: Input/output error"), errno.EIO),
        (OSError("1000 requested and 24 written"), errno.ENOSPC),
        (OSError(errno.ETIMEDOUT, "Connection timed out", "/share/file"), errno.ETIMEDOUT),
        (OSError(errno.ETIMEDOUT, "Connection timed out"), 0),
        (OSError(errno.ENOENT, "No such file or directory"), 0),
        (ValueError("not a disk's"), 0),
        (None, 0),
    ],
)
def test_errors_of_a_disk_are_known(error, number):
    assert storage.fault_of(error) == number


def test_causes_in_a_circle():
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    assert storage.fault_of(one) == 0


@pytest.mark.parametrize("number", storage.CURES)
def test_an_error_is_told_with_the_path_and_a_cure(tmp_path, number):
    again = f"x: {os.strerror(number)}; .*, then give the same command again"
    with pytest.raises(StorageError, match=again) as caught, storage.writing(tmp_path / "x"):
        raise OSError(number, os.strerror(number))
    assert caught.value.code == 3 and storage.CURES[number] in str(caught.value)


def test_other_errors_stay_as_they_are(tmp_path):
    with pytest.raises(FileNotFoundError), storage.writing(tmp_path):
        (tmp_path / "a" / "b").touch()


def test_room_is_asked_where_a_folder_will_be(tmp_path):
    assert storage.free_bytes(tmp_path / "not" / "yet") > 0


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENXIO])
def test_what_cannot_be_read_is_the_disks_fault(tmp_path, number, named):
    path = tmp_path / "x"
    again = f"{path}: {os.strerror(number)}; .*, then give"
    with pytest.raises(StorageError, match=again) as caught, storage.reading(path):
        raise OSError(number, os.strerror(number), *[str(path)] * named)
    assert caught.value.code == 3


@pytest.mark.parametrize("there", [True, False])
def test_who_may_read_a_file_is_said(tmp_path, there):
    path = tmp_path / "x"
    path.touch() if there else None
    with pytest.raises(AccessError) as caught, storage.reading(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))
    owner = path.owner() if there else "somebody else"
    assert f"{path}: Permission denied: it belongs to {owner}, and this is user {os.geteuid()}" in str(caught.value)
    assert caught.value.code == 2


@pytest.mark.parametrize("number", storage.LOST)
def test_what_is_not_there_is_no_fault_of_the_disk(tmp_path, number):
    with pytest.raises(OSError, match=os.strerror(number)), storage.reading(tmp_path):
        raise OSError(number, os.strerror(number))
