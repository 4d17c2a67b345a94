"""Objects of a bucket (gs://) as paths, by gcsfs: what files are to a disk, without a failure taken for "not there".

Objects are written whole or not at all, and what is written is seen by all at once; there are no folders, and nothing
can be appended to. Orbax is given these paths too, and reads and writes arrays there by tensorstore.
"""

import logging
import os
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from etils.epath.gpath import PosixGPath

from bertjax.errors import ConfigError

PAGE = 1000  # objects a request lists
NEEDS = "gs:// is read and written by gcsfs: pip install 'bertjax[gcs]'"


class Listed(NamedTuple):
    """What a bucket knows of an object."""

    size: int
    crc32c: str  # as the store gives it: base64
    generation: int  # changes with every write


class BucketPath(PosixGPath):
    """gs://BUCKET/NAME with the methods of a pathlib.Path that are used here."""

    @property
    def bucket(self) -> str:
        """The first part of the name."""
        return self.parts[2] if len(self.parts) > 2 else ""

    @property
    def key(self) -> str:
        """The name of the object in its bucket."""
        return "/".join(self.parts[3:])

    def absolute(self) -> "BucketPath":
        """Itself."""
        return self

    def resolve(self, strict: bool = False) -> "BucketPath":
        """Itself."""
        return self

    def is_file(self) -> bool:
        """Whether there is an object of this name."""
        return stat(self) is not None

    def is_dir(self) -> bool:
        """Whether there are objects below it."""
        return any(_pages(self, 10))

    def exists(self) -> bool:
        """Whether it is there, as an object or as a folder of such."""
        return self.is_file() or self.is_dir()

    def iterdir(self) -> Iterator["BucketPath"]:
        """What is in a folder."""
        names = {name.partition("/")[0] for name in listing(self)}
        return (self / name for name in sorted(names))

    def mkdir(self, mode: int | None = None, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: a folder is there with the first object in it."""

    def touch(self, mode: int = 0o666, exist_ok: bool = True) -> None:
        """An empty object."""
        write(self, b"")

    def read_bytes(self) -> bytes:
        """The whole object."""
        try:
            return bytes(_fs().cat_file(str(self)))
        except FileNotFoundError:
            raise FileNotFoundError(2, "No such object", str(self)) from None

    def read_text(self, encoding: str | None = None) -> str:
        """The whole object, as UTF-8."""
        return self.read_bytes().decode(encoding or "utf-8")

    def write_bytes(self, data: bytes) -> int:
        """Writes it whole or not at all."""
        write(self, data)
        return len(data)

    def write_text(self, data: str, encoding: str | None = None, errors: str | None = None) -> int:
        """Writes it whole or not at all."""
        return self.write_bytes(data.encode(encoding or "utf-8", errors or "strict"))

    def unlink(self, missing_ok: bool = False) -> None:
        """Deletes the object."""
        try:
            delete(self)
        except FileNotFoundError:
            if not missing_ok:
                raise FileNotFoundError(2, "No such object", str(self)) from None

    def rmtree(self, missing_ok: bool = False) -> None:
        """Deletes all objects below it."""
        for name in listing(self):
            (self / name).unlink(missing_ok=True)

    def rename(self, target: Any) -> "BucketPath":  # noqa: ANN401 (a path, as in pathlib)
        """Moves all objects below it, each by a copy in the store; what stands in their place goes."""
        to = BucketPath(target)
        for name in listing(self):
            _fs().cp_file(str(self / name), str(to / name))
            (self / name).unlink(missing_ok=True)
        return to


def _fs() -> Any:  # noqa: ANN401 (a gcsfs.GCSFileSystem)
    """The client that etils and with it Orbax have as well."""
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # it would ask by gRPC what every bucket is
    try:
        import fsspec
        import gcsfs  # noqa: F401
    except ImportError:
        raise ConfigError(NEEDS) from None
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # what it raises is told once, by us
    fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False  # other hosts write there too
    return fsspec.filesystem("gcs", finalize_on_close=True)


def _call(method: str, path: str, *names: str, **options: Any) -> Any:  # noqa: ANN401 (JSON)
    return _fs().call(method, path, *names, **options)


def stat(path: BucketPath) -> Listed | None:
    """What the bucket knows of an object; None where there is none."""
    if not path.key:
        return None
    try:
        return _listed(_call("GET", "b/{}/o/{}", path.bucket, path.key, json_out=True))
    except FileNotFoundError:
        return None


def listing(folder: BucketPath) -> dict[str, Listed]:
    """All objects below a folder by their names from there."""
    return {name: about for page in _pages(folder, PAGE) for name, about in page.items()}


def _pages(folder: BucketPath, size: int) -> Iterator[dict[str, Listed]]:
    """All objects below a folder, some with every request."""
    token, prefix = None, f"{folder.key}/" if folder.key else ""
    while True:
        answer = _call("GET", "b/{}/o", folder.bucket, json_out=True, prefix=prefix, maxResults=size, pageToken=token)
        items = {item["name"].removeprefix(prefix): _listed(item) for item in answer.get("items", ())}
        # Consoles and mounts leave empty objects where they show a folder.
        yield {name: about for name, about in items.items() if name and not name.endswith("/")}
        token = answer.get("nextPageToken")
        if not token:
            return


def _listed(item: Any) -> Listed:  # noqa: ANN401 (JSON)
    return Listed(int(item["size"]), item.get("crc32c", ""), int(item["generation"]))


def write(path: BucketPath, data: bytes, *, over: int | None = None) -> int:
    """Writes an object and gives its generation; with `over`, only over that generation (0: where there is none).

    Raises FileExistsError where another is there.
    """
    url = f"{_fs()._location}/upload/storage/v1/b/{{}}/o"
    options = {} if over is None else {"ifGenerationMatch": str(over)}
    about = _call("POST", url, path.bucket, uploadType="media", name=path.key, data=data, json_out=True, **options)
    return int(about["generation"])


def delete(path: BucketPath, *, generation: int | None = None) -> None:
    """Deletes an object, if it is still of a generation; raises FileExistsError where it is of another one."""
    options = {} if generation is None else {"ifGenerationMatch": str(generation)}
    _call("DELETE", "b/{}/o/{}", path.bucket, path.key, **options)


def probe(path: BucketPath, *, writes: bool) -> None:
    """Raises where a bucket cannot be listed, or what Orbax asks before it writes is not allowed."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]", path.bucket):
        raise ConfigError(f"{path}: {path.bucket!r} is no name of a bucket; give gs://BUCKET/FOLDER")
    if not path.key:
        raise ConfigError(f"{path}: names the whole bucket; give a folder in it, gs://{path.bucket}/FOLDER")
    try:
        any(_pages(path, 1))
        if writes:
            _call("GET", "b/{}", path.bucket, json_out=True)
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: there is no bucket {path.bucket}; gcloud storage buckets create gs://{path.bucket}"
        ) from None
