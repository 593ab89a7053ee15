"""An S3-compatible server with persistent objects: moto serves requests, a folder stores the
objects.

Moto keeps objects in memory only. Therefore every change is written to the folder before the
response is sent, and read at the start. For one machine and one user: every request must have the
access key, but its signature is not checked.

Run as `python -m deploy.local.objects FOLDER PORT BUCKET`; the access key comes from
AWS_ACCESS_KEY_ID.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

_WRITING_METHODS = ("PUT", "POST", "DELETE")
_FORBIDDEN = b"<Error><Code>InvalidAccessKeyId</Code><Message>unknown access key</Message></Error>"


class Bucket:
    """The objects of one bucket, two files each, named by the hash of the key: as paths, keys can
    be too long or clash.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def put(self, key: str, value: bytes, content_type: str) -> None:
        """Store an object. Its description is written last, so an incomplete object is ignored."""
        self._write(self._file(key, "bytes"), value)
        self._write(
            self._file(key, "json"), json.dumps({"key": key, "type": content_type}).encode()
        )

    def keep_only(self, keys: set[str]) -> None:
        """Delete all objects that are not in `keys`."""
        for key, _, _ in list(self.items(values=False)):
            if key not in keys:
                self.drop(key)

    def drop(self, key: str) -> None:
        """Delete an object if it exists."""
        self._file(key, "json").unlink(missing_ok=True)
        self._file(key, "bytes").unlink(missing_ok=True)

    def items(self, values: bool = True) -> Iterable[tuple[str, bytes, str]]:
        """Key, bytes (b"" without `values`) and content type of every object."""
        for path in sorted(self.folder.glob("*.json")):
            description = json.loads(path.read_bytes())
            content = path.with_suffix(".bytes").read_bytes() if values else b""
            yield description["key"], content, description["type"]

    def _file(self, key: str, kind: str) -> Path:
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()}.{kind}"

    def _write(self, path: Path, value: bytes) -> None:
        temporary = path.with_suffix(path.suffix + ".new")
        with temporary.open("wb") as stream:
            stream.write(value)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)


class Durable:
    """WSGI application around moto's: requires the access key, and stores changes before it
    responds.
    """

    def __init__(
        self, inner: Callable[..., Iterable[bytes]], folder: Path, access_key: str
    ) -> None:
        self._inner, self._folder, self._access_key = inner, folder, access_key

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        if not self._allowed(environ):
            start_response("403 Forbidden", [("Content-Type", "application/xml")])
            return [_FORBIDDEN]
        response = self._inner(environ, start_response)
        if environ["REQUEST_METHOD"] not in _WRITING_METHODS:
            return response
        body = list(response)
        # WSGI passes the path unquoted, its bytes decoded as Latin-1.
        bucket, _, key = environ["PATH_INFO"].encode("latin-1").decode().lstrip("/").partition("/")
        self._store(bucket, key)
        return body

    def _allowed(self, environ: dict[str, Any]) -> bool:
        signed = environ.get("HTTP_AUTHORIZATION", "")
        presigned = parse_qs(environ.get("QUERY_STRING", "")).get("X-Amz-Credential", [""])[0]
        return f"Credential={self._access_key}/" in signed or presigned.startswith(
            f"{self._access_key}/"
        )

    def _store(self, bucket: str, key: str) -> None:
        in_memory = _buckets().get(bucket)
        if in_memory is None:
            return
        stored = Bucket(self._folder / bucket)
        if not key:  # a request for many objects
            stored.keep_only(set(in_memory.keys))
        elif (item := in_memory.keys.get(key)) is None:
            stored.drop(key)
        else:
            stored.put(key, item.value, item.metadata.get("Content-Type", "binary/octet-stream"))


def _buckets() -> dict[str, Any]:
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends

    return s3_backends[DEFAULT_ACCOUNT_ID]["aws"].buckets


def restore(folder: Path, bucket: str) -> None:
    """Load the folder's objects into moto, and create `bucket` if it does not exist."""
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends

    backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    Bucket(folder / bucket)
    for subfolder in sorted(path for path in folder.iterdir() if path.is_dir()):
        backend.create_bucket(subfolder.name, "us-east-1")
        for key, value, content_type in Bucket(subfolder).items():
            backend.put_object(subfolder.name, key, value).set_metadata(
                {"Content-Type": content_type}
            )


def main() -> None:
    """Serve until SIGTERM."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    folder, port, bucket = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    folder.mkdir(parents=True, exist_ok=True)
    restore(folder, bucket)
    application = Durable(
        DomainDispatcherApplication(create_backend_app), folder, os.environ["AWS_ACCESS_KEY_ID"]
    )
    # Exits at once: acknowledged changes are on disk, and open connections must not delay the exit.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    make_server("127.0.0.1", port, application, threaded=True).serve_forever()


if __name__ == "__main__":
    main()
