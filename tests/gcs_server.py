"""A bucket on this machine: the part of Google Cloud Storage's JSON API that its clients use here, kept in memory.

Uploads in one request, of one and of several parts, and resumable ones; reading with ranges; listing with prefix,
delimiter and pages; deleting; rewriting; preconditions on generations. Written after
https://cloud.google.com/storage/docs/json_api/v1; what the real service does otherwise is not seen here.
"""

import base64
import hashlib
import itertools
import json
import re
import threading
from collections import Counter
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import google_crc32c

PAGE = 50  # objects of a page: fewer than the service's 1000, so that there are several


class Stored(NamedTuple):
    """One object."""

    data: bytes
    generation: int
    updated: datetime


class Refused(Exception):
    """What a request is answered with in the place of what it asks for."""

    def __init__(self, status, reason):
        super().__init__(status, reason)
        self.status, self.reason = status, reason


class Server(ThreadingHTTPServer):
    """Buckets by name, objects by name; `fault(method, path)` may name a status to answer with, or "drop"."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, *buckets):
        super().__init__(("127.0.0.1", 0), Handler)
        self.buckets = {name: {} for name in buckets}
        self.lock = threading.RLock()
        self.generations = itertools.count(1_700_000_000_000_000)
        self.uploads = {}  # resumable ones that go on: number -> (bucket, query, name, bytes)
        self.fault = lambda method, path: None
        self.calls = Counter()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def files(self, bucket, prefix=""):
        """Name -> bytes."""
        with self.lock:
            return {n: stored.data for n, stored in sorted(self.buckets[bucket].items()) if n.startswith(prefix)}

    def store(self, bucket, name, data, query=None):
        """Writes an object where its preconditions hold."""
        with self.lock:
            self.check(bucket, name, query or {})
            self.buckets[bucket][name] = Stored(bytes(data), next(self.generations), datetime.now(UTC))
            return self.about(bucket, name)

    def check(self, bucket, name, query):
        """Raises where the bucket is missing or a precondition does not hold."""
        if bucket not in self.buckets:
            raise Refused(404, "The specified bucket does not exist.")
        found = self.buckets[bucket].get(name)
        generation = found.generation if found else 0
        if query.get("ifGenerationMatch", str(generation)) != str(generation):
            raise Refused(412, "At least one of the pre-conditions you specified did not hold.")
        if "ifGenerationNotMatch" in query and query["ifGenerationNotMatch"] == str(generation):
            raise Refused(304, "Not Modified")

    def find(self, bucket, name, query):
        """An object, where there is one and its preconditions hold."""
        with self.lock:
            self.check(bucket, name, query)
            if name not in self.buckets[bucket]:
                raise Refused(404, f"No such object: {bucket}/{name}")
            return self.buckets[bucket][name]

    def about(self, bucket, name):
        """An object's metadata."""
        stored = self.buckets[bucket][name]
        time = stored.updated.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {
            "kind": "storage#object",
            "id": f"{bucket}/{name}/{stored.generation}",
            "name": name,
            "bucket": bucket,
            "size": str(len(stored.data)),
            "generation": str(stored.generation),
            "metageneration": "1",
            "etag": str(stored.generation),
            "storageClass": "STANDARD",
            "contentType": "application/octet-stream",
            "timeCreated": time,
            "updated": time,
            "crc32c": base64.b64encode(google_crc32c.value(stored.data).to_bytes(4, "big")).decode(),
            "md5Hash": base64.b64encode(hashlib.md5(stored.data).digest()).decode(),
        }

    def handle_error(self, request, client_address):
        """Clients that end in the middle are no errors here."""


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def log_message(self, *_):
        pass

    def _serve(self):
        parts = urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        self.body = self._body()
        path = parts.path
        self.server.calls[self.command] += 1
        fault = self.server.fault(self.command, path)
        if fault == "drop":
            self.close_connection = True
            self.connection.close()
            return
        try:
            if fault:
                raise Refused(fault, f"{fault} by order of the test")
            for pattern, act in ROUTES:
                found = re.fullmatch(pattern, f"{self.command} {path}")
                if found:
                    return getattr(self, act)(*map(unquote, found.groups()))
            raise Refused(404, f"no such call: {self.command} {path}")
        except Refused as refused:
            error = {"error": {"code": refused.status, "message": refused.reason}}
            self._answer(json.dumps(error).encode() if refused.status != 304 else b"", refused.status)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = _serve

    def _body(self):
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        made = b""
        while size := int(self.rfile.readline(), 16):
            made += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return made

    def _answer(self, data=b"", status=200, **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self._headers_buffer.append(b"\r\n")
        if self.command != "HEAD":
            self._headers_buffer.append(data)
        self.flush_headers()

    def _json(self, value, **headers):
        self._answer(json.dumps(value).encode(), Content_Type="application/json", **headers)

    def bucket(self, bucket):
        self.server.check(bucket, "", {})
        self._json({"kind": "storage#bucket", "id": bucket, "name": bucket, "metageneration": "1"})

    def objects(self, bucket):
        self.server.check(bucket, "", {})
        prefix, delimiter = self.query.get("prefix", ""), self.query.get("delimiter")
        with self.server.lock:
            found = {}  # name or common prefix -> metadata or None
            for name in sorted(self.server.buckets[bucket]):
                if not name.startswith(prefix) or name < self.query.get("startOffset", ""):
                    continue
                if self.query.get("endOffset") and name >= self.query["endOffset"]:
                    continue
                end = name.find(delimiter, len(prefix)) if delimiter else -1
                found[name if end < 0 else name[: end + 1]] = self.server.about(bucket, name) if end < 0 else None
        keys = [key for key in found if key > self.query.get("pageToken", "")]
        page = keys[: min(PAGE, int(self.query.get("maxResults") or PAGE))]
        answer = {"kind": "storage#objects"}
        if items := [found[key] for key in page if found[key]]:
            answer["items"] = items
        if prefixes := [key for key in page if not found[key]]:
            answer["prefixes"] = prefixes
        if len(page) < len(keys):
            answer["nextPageToken"] = page[-1]
        self._json(answer)

    def object(self, bucket, name):
        stored = self.server.find(bucket, name, self.query)
        if self.query.get("alt") != "media":
            return self._json(self.server.about(bucket, name))
        about = {"x_goog_generation": str(stored.generation), "x_goog_metageneration": "1"}
        about["x_goog_hash"] = f"crc32c={self.server.about(bucket, name)['crc32c']}"
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not asked:
            return self._answer(stored.data, **about)
        size = len(stored.data)
        first = int(asked[1]) if asked[1] else max(0, size - int(asked[2]))
        last = min(size - 1, int(asked[2])) if asked[1] and asked[2] else size - 1
        if first >= size:
            return self._answer(b"", 416, Content_Range=f"bytes */{size}", **about)
        self._answer(stored.data[first : last + 1], 206, Content_Range=f"bytes {first}-{last}/{size}", **about)

    def delete(self, bucket, name):
        with self.server.lock:
            self.server.find(bucket, name, self.query)
            del self.server.buckets[bucket][name]
        self._answer(b"", 204)

    def copy(self, bucket, name, to_bucket, to_name):
        data = self.server.find(bucket, name, {}).data
        about = self.server.store(to_bucket, to_name, data, self.query)
        self._json({"kind": "storage#rewriteResponse", "done": True, "resource": about})

    def upload(self, bucket):
        kind = self.query["uploadType"]
        if kind == "media":
            return self._json(self.server.store(bucket, self.query["name"], self.body, self.query))
        if kind == "multipart":
            boundary = re.search(r'boundary="?([^";]+)', self.headers["Content-Type"])[1].encode()
            _, first, second, _ = self.body.split(b"--" + boundary)
            about = json.loads(re.split(rb"\r?\n\r?\n", first, maxsplit=1)[1])
            data = re.split(rb"\r?\n\r?\n", second, maxsplit=1)[1]
            data = data.removesuffix(b"\r\n" if first.endswith(b"\r\n") else b"\n")
            return self._json(self.server.store(bucket, about["name"], data, self.query))
        number = str(next(self.server.generations))
        name = self.query.get("name") or json.loads(self.body)["name"]
        self.server.check(bucket, name, self.query)
        self.server.uploads[number] = bucket, self.query, name, bytearray()
        query = f"uploadType=resumable&upload_id={number}"
        self._json({}, Location=f"{self.server.url}/upload/storage/v1/b/{bucket}/o?{query}")

    def go_on(self, bucket):
        number = self.query["upload_id"]
        bucket, query, name, data = self.server.uploads[number]
        data += self.body
        total = self.headers.get("Content-Range", "bytes */*").rpartition("/")[2]
        if total == "*" or int(total) > len(data):
            return self._answer(b"", 308, Range=f"bytes=0-{len(data) - 1}")
        del self.server.uploads[number]
        self._json(self.server.store(bucket, name, data, query))


NAME = "([^/]+)"
API = "(?:/download)?/storage/v1/b"
ROUTES = (
    (rf"GET {API}/{NAME}", "bucket"),
    (rf"GET {API}/{NAME}/o", "objects"),
    (rf"GET {API}/{NAME}/o/(.+)", "object"),
    (rf"DELETE {API}/{NAME}/o/(.+)", "delete"),
    (rf"POST {API}/{NAME}/o/(.+)/(?:rewriteTo|copyTo)/b/{NAME}/o/(.+)", "copy"),
    (rf"POST /(?:resumable/)?upload/storage/v1/b/{NAME}/o", "upload"),
    (rf"PUT /(?:resumable/)?upload/storage/v1/b/{NAME}/o", "go_on"),
)


@contextmanager
def serving(*buckets):
    """A server with empty buckets, in a thread."""
    server = Server(*buckets)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def environment(server):
    """What brings a process's clients to it, without the credentials that the service wants."""
    return {
        "STORAGE_EMULATOR_HOST": server.url,
        "TENSORSTORE_GCS_HTTP_URL": server.url,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "token",
        "FSSPEC_GCS_TOKEN": "anon",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
    }
