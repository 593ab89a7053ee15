"""Files of one folder on any file system that pyarrow or fsspec supports, with retries.

Files fit into memory (a shard is tens of megabytes) and are written atomically: by rename on a
disk, by a single upload to object storage.
"""

from __future__ import annotations

import contextlib
import errno
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs

from isic.core.errors import InputError, redact
from isic.core.io import atomic_file

_Result = TypeVar("_Result")

#: Attempts at one file, and seconds before the second attempt. Each wait is twice the previous one
#: (25 s in total).
_ATTEMPTS, WAIT = 8, 0.2
#: Errors that are not retried.
_PERMANENT = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Store:
    """A folder by path or URI (`s3://bucket/folder`, `gs://…`, any fsspec protocol); picklable.

    Raises InputError for a URI that no installed library supports, and when all _ATTEMPTS at a file
    fail.
    """

    def __init__(self, uri: str | Path) -> None:
        self.uri = str(uri)
        self._fs, self._root = _open(self.uri)

    def __reduce__(self) -> tuple[type[Store], tuple[str]]:
        return Store, (self.uri,)

    def where(self, name: str) -> str:
        """The file's path or URI for messages, without password and query (endpoint, region)."""
        return f"{redact(self.uri).rstrip('/')}/{name}"

    def read(self, name: str) -> bytes:
        """The file's bytes."""

        def attempt() -> bytes:
            with self._fs.open_input_stream(self._path(name)) as stream:
                return bytes(stream.read())

        return self._retry(name, "read", attempt)

    def read_with(self, name: str, use: Callable[[Any], _Result]) -> _Result:
        """Result of `use` on the open, seekable file: for readers that need only parts of it."""

        def attempt() -> _Result:
            with self._fs.open_input_file(self._path(name)) as file:
                return use(file)

        return self._retry(name, "read", attempt)

    def write(self, name: str, data: bytes) -> None:
        """Write the file, replacing an existing one."""

        def attempt() -> None:
            if isinstance(self._fs, pafs.LocalFileSystem):
                with atomic_file(Path(self._path(name))) as temporary:
                    temporary.write_bytes(data)
                return
            self._fs.create_dir(self._root, recursive=True)
            with self._fs.open_output_stream(self._path(name)) as stream:
                stream.write(data)

        self._retry(name, "written", attempt)

    def remove(self, name: str) -> None:
        """Delete the file; do nothing if it does not exist."""

        def attempt() -> None:
            # An earlier attempt may have succeeded although its response was lost.
            with contextlib.suppress(FileNotFoundError):
                self._fs.delete_file(self._path(name))

        self._retry(name, "removed", attempt)

    def __contains__(self, name: str) -> bool:
        def attempt() -> bool:
            return bool(self._fs.get_file_info(self._path(name)).is_file)

        return self._retry(name, "found", attempt)

    def sizes(self) -> dict[str, int]:
        """Bytes of every file directly in the folder, {} when it does not exist."""

        def attempt() -> dict[str, int]:
            infos = self._fs.get_file_info(pafs.FileSelector(self._root, allow_not_found=True))
            return {info.base_name: info.size for info in infos if info.is_file}

        return self._retry("", "listed", attempt)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if self._root else name

    def _retry(self, name: str, action: str, attempt: Callable[[], _Result]) -> _Result:
        for attempts in range(1, _ATTEMPTS + 1):
            try:
                return attempt()
            except FileNotFoundError as error:
                raise InputError(f"{self.where(name)} not found: check the path") from error
            except NotADirectoryError as error:
                raise InputError(f"{redact(self.uri)} is a file: name a folder") from error
            except OSError as error:
                if isinstance(error, _PERMANENT) or error.errno in _FULL:
                    raise
                reason = _reason(error)
                if attempts == _ATTEMPTS:
                    raise InputError(
                        f"{self.where(name)} cannot be {action} after {_ATTEMPTS} attempts"
                        f" ({reason}): check the storage and run the same command again"
                    ) from error
                sys.stderr.write(
                    f"isic: note: {self.where(name)}: {reason}; attempt {attempts + 1} of"
                    f" {_ATTEMPTS}\n"
                )
                # Jitter, so that the workers of a cluster do not all retry at once.
                time.sleep(WAIT * 2 ** (attempts - 1) * random.uniform(0.5, 1.0))
        raise AssertionError("unreachable")


def _open(uri: str) -> tuple[Any, str]:
    if not uri.strip():
        raise InputError("an empty path names no folder: give one, or a URI such as s3://…")
    if "\0" in uri:
        raise InputError(f"{uri!r} is no path: name another folder")
    if "://" not in uri:
        return pafs.LocalFileSystem(), str(Path(uri).absolute())
    try:
        fs, root = _by_pyarrow(uri)
    except OSError as error:
        raise InputError(f"{redact(uri)} cannot be opened ({_reason(error)}): check it") from error
    return fs, root.rstrip("/")


def _by_pyarrow(uri: str) -> tuple[Any, str]:
    try:
        opened: tuple[Any, str] = pafs.FileSystem.from_uri(uri)
    except pa.ArrowInvalid:
        opened = _by_fsspec(uri)
    return opened


def _by_fsspec(uri: str) -> tuple[Any, str]:
    import fsspec

    try:
        fs, root = fsspec.core.url_to_fs(uri)
    except (ImportError, ValueError) as error:
        raise InputError(
            f"{redact(uri)} cannot be opened ({_reason(error)}): use a path, s3://, gs:// or a"
            " protocol that an installed fsspec library serves"
        ) from error
    return pafs.PyFileSystem(pafs.FSSpecHandler(fs)), root


def _reason(error: Exception) -> str:
    """A library's message, shortened. Passwords are masked first: a truncated address would not
    match.
    """
    return redact(" ".join(str(error).split()))[:160]
