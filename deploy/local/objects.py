"""An S3-compatible server whose objects outlive it: moto answers, a folder remembers.

Moto keeps objects in memory, which is right for a test and wrong for a store of models. Every change is therefore
written to the folder before its answer goes out, and read back at the start. One machine, one user: the access key is
asked for on every request, its signature is not checked.

Run as `python -m deploy.local.objects FOLDER PORT BUCKET`; the access key comes from AWS_ACCESS_KEY_ID.
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

_CHANGES = ("PUT", "POST", "DELETE")
_REFUSAL = b"<Error><Code>InvalidAccessKeyId</Code><Message>unknown access key</Message></Error>"


class Shelf:
    """The objects of one bucket, two files each, named by the hash of the key: keys are long and may clash as paths."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def put(self, key: str, value: bytes, content_type: str) -> None:
        """Keep an object; its description comes last, so that half an object is none."""
        self._write(self._file(key, "bytes"), value)
        self._write(self._file(key, "json"), json.dumps({"key": key, "type": content_type}).encode())

    def keep_only(self, keys: set[str]) -> None:
        """Drop what is not among `keys`."""
        for key, _, _ in list(self.items(values=False)):
            if key not in keys:
                self.drop(key)

    def drop(self, key: str) -> None:
        """Forget an object, absent or not."""
        self._file(key, "json").unlink(missing_ok=True)
        self._file(key, "bytes").unlink(missing_ok=True)

    def items(self, values: bool = True) -> Iterable[tuple[str, bytes, str]]:
        """Key, bytes (b"" without `values`) and content type of every object."""
        for path in sorted(self.folder.glob("*.json")):
            said = json.loads(path.read_bytes())
            yield said["key"], path.with_suffix(".bytes").read_bytes() if values else b"", said["type"]

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
    """A WSGI application around moto's: asks for the access key, and writes changes down before it answers."""

    def __init__(self, inner: Callable[..., Iterable[bytes]], folder: Path, access_key: str) -> None:
        self._inner, self._folder, self._access_key = inner, folder, access_key

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if not self._allowed(environ):
            start_response("403 Forbidden", [("Content-Type", "application/xml")])
            return [_REFUSAL]
        answer = self._inner(environ, start_response)
        if environ["REQUEST_METHOD"] not in _CHANGES:
            return answer
        body = list(answer)
        # WSGI hands the path over unquoted, its bytes as Latin-1.
        bucket, _, key = environ["PATH_INFO"].encode("latin-1").decode().lstrip("/").partition("/")
        self._write_down(bucket, key)
        return body

    def _allowed(self, environ: dict[str, Any]) -> bool:
        signed = environ.get("HTTP_AUTHORIZATION", "")
        asked = parse_qs(environ.get("QUERY_STRING", "")).get("X-Amz-Credential", [""])[0]
        return f"Credential={self._access_key}/" in signed or asked.startswith(f"{self._access_key}/")

    def _write_down(self, bucket: str, key: str) -> None:
        there = _buckets().get(bucket)
        if there is None:
            return
        shelf = Shelf(self._folder / bucket)
        if not key:  # a request about many objects
            shelf.keep_only(set(there.keys))
        elif (found := there.keys.get(key)) is None:
            shelf.drop(key)
        else:
            shelf.put(key, found.value, found.metadata.get("Content-Type", "binary/octet-stream"))


def _buckets() -> dict[str, Any]:
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends

    return s3_backends[DEFAULT_ACCOUNT_ID]["aws"].buckets


def restore(folder: Path, bucket: str) -> None:
    """Fill moto with what the folder holds, and make `bucket` if it is new."""
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends

    backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    Shelf(folder / bucket)
    for place in sorted(path for path in folder.iterdir() if path.is_dir()):
        backend.create_bucket(place.name, "us-east-1")
        for key, value, content_type in Shelf(place).items():
            backend.put_object(place.name, key, value).set_metadata({"Content-Type": content_type})


def main() -> None:
    """Serve until SIGTERM."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    folder, port, bucket = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    folder.mkdir(parents=True, exist_ok=True)
    restore(folder, bucket)
    application = Durable(DomainDispatcherApplication(create_backend_app), folder, os.environ["AWS_ACCESS_KEY_ID"])
    # Nothing to tidy: what was answered is on disk, and a client that keeps its connection must not keep us.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    make_server("127.0.0.1", port, application, threaded=True).serve_forever()


if __name__ == "__main__":
    main()
