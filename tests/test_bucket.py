"""Objects of a bucket as paths: what a path of a disk does, and no failure that is taken for an absence."""

import gcs_server
import pytest

from bertjax import bucket, paths
from bertjax.errors import AwayError, StorageError
from bertjax.paths import Growing, as_path, fetched, remote, sizes
from bertjax.storage import AWAY, FORBIDDEN, LOGIN, fault_of

FOLDER = as_path("gs://bkt/some/folder")


@pytest.fixture
def few(cloud, monkeypatch):
    monkeypatch.setattr(gcs_server, "PAGE", 3)
    for number in range(10):
        cloud.store("bkt", f"some/folder/{number % 2}/{number}", b"x" * number)
    cloud.store("bkt", "some/folder2/other", b"")
    cloud.store("bkt", "some/folder/empty/", b"")  # as consoles make it
    return cloud


def test_a_folder_is_what_its_objects_make_it(few):
    assert sizes(FOLDER) == {f"{number % 2}/{number}": number for number in range(10)}
    assert [path.name for path in FOLDER.iterdir()] == ["0", "1"]
    assert FOLDER.is_dir() and FOLDER.exists() and not FOLDER.is_file()
    assert (FOLDER / "1/9").is_file() and (FOLDER / "1/9").exists() and not (FOLDER / "1/9").is_dir()
    assert not (FOLDER / "empty").is_dir() and not (FOLDER / "fold").exists()
    assert not as_path("gs://bkt/some/fold").is_dir()


def test_objects_are_read_written_moved_and_deleted(few):
    file = FOLDER / "new" / "file"
    with pytest.raises(FileNotFoundError, match="gs://bkt/some/folder/new/file"):
        file.read_bytes()
    file.parent.mkdir(parents=True)
    assert file.write_text("ä") == 2 and file.read_text() == "ä" and file.absolute() == file == file.resolve()
    (FOLDER / "new").rename(FOLDER / "moved")
    assert not file.exists() and (FOLDER / "moved/file").read_bytes() == "ä".encode()
    (FOLDER / "moved/file").unlink()
    (FOLDER / "moved/file").unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError):
        (FOLDER / "moved/file").unlink()
    FOLDER.rmtree()
    assert sorted(few.files("bkt")) == ["some/folder/empty/", "some/folder2/other"]


def test_paths_of_this_machine_stay_what_they_are(tmp_path):
    assert as_path(str(tmp_path)) == tmp_path and not remote(as_path("gs:/b")) and not remote(tmp_path)
    assert str(as_path("GS://bkt//a/")) == "gs://bkt/a" and remote(FOLDER) and as_path(FOLDER) is FOLDER
    with fetched(tmp_path) as here:
        assert here == tmp_path


def test_files_and_folders_are_fetched(few):
    with fetched(FOLDER) as folder, fetched(FOLDER / "1/9") as file:
        assert sizes(folder) == sizes(FOLDER) and file.read_bytes() == b"x" * 9
    assert not folder.exists() and not file.exists()
    with pytest.raises(FileNotFoundError), fetched(FOLDER / "none"):
        pass


@pytest.mark.parametrize("fault", [503, 403, "drop"])
def test_a_failure_is_no_absence(few, fault):
    few.fault = lambda method, path: fault
    for look in (FOLDER.exists, FOLDER.is_dir, FOLDER.is_file, lambda: list(FOLDER.iterdir()), FOLDER.read_bytes):
        with pytest.raises(Exception) as caught:
            look()
        assert fault_of(caught.value) == (FORBIDDEN if fault == 403 else AWAY)
    with pytest.raises(StorageError if fault == 403 else AwayError, match="gs://bkt/some/folder"), fetched(FOLDER):
        pass


def test_errors_of_all_clients_are_known(few):
    import google.api_core.exceptions
    import google.auth.exceptions

    for error, number in (
        (google.api_core.exceptions.Forbidden("no"), FORBIDDEN),
        (google.api_core.exceptions.ServiceUnavailable("no"), AWAY),
        (google.auth.exceptions.DefaultCredentialsError("none"), LOGIN),
        (google.auth.exceptions.TransportError("away"), AWAY),
        (ValueError("PERMISSION_DENIED: Error writing gs://bkt/x: 403"), FORBIDDEN),
        (ValueError("UNAUTHENTICATED: Error reading gs://bkt/x"), LOGIN),
        (ValueError("ABORTED: Error reading gs://bkt/x: All 32 retry attempts failed"), AWAY),
        (ValueError("PERMISSION_DENIED: of something else"), 0),
        (OSError("Forbidden: https://storage"), FORBIDDEN),
        (PermissionError(13, "Permission denied"), 0),
    ):
        assert fault_of(error) == number, error
        assert fault_of(RuntimeError("around it")) == 0
        try:
            raise RuntimeError("around it") from error
        except RuntimeError as outer:
            assert fault_of(outer) == number, error


def test_a_file_that_grows_is_written_now_and_then(cloud, monkeypatch):
    file = Growing(FOLDER / "log", ["one"])
    name = "some/folder/log"
    assert cloud.files("bkt")[name] == b"one\n"
    file.add("two")
    assert cloud.files("bkt")[name] == b"one\n"
    file.flush()
    assert cloud.files("bkt")[name] == b"one\ntwo\n"
    before = cloud.calls["POST"]
    file.flush()
    assert cloud.calls["POST"] == before
    monkeypatch.setattr(paths, "OFTEN", 0.0)
    file.add("three")
    assert cloud.files("bkt")[name] == b"one\ntwo\nthree\n"
    cloud.fault = lambda method, path: 503
    file.add("four")
    with pytest.raises(AwayError):
        file.flush()
    assert "the bucket does not answer" in file.refused
    cloud.fault = lambda method, path: None
    file.flush()
    assert not file.refused and cloud.files("bkt")[name] == b"one\ntwo\nthree\nfour\n"


def test_what_a_bucket_knows_of_an_object(few):
    about = bucket.stat(FOLDER / "1/9")
    assert about == bucket.listing(FOLDER)["1/9"] and about.size == 9 and len(about.crc32c) == 8
    assert bucket.stat(FOLDER) is None and bucket.stat(as_path("gs://bkt")) is None
