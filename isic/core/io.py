"""Atomic file writes, checked reads, hashes.

Writers use a temporary name in the same folder, fsync and rename. Readers raise `InputError` for a
missing, empty or truncated file.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from isic.core.errors import InputError

#: Remedy for a broken file, which may be a stage's output or the user's own file.
_BROKEN = "name another file, or, if `dvc repro` made it, delete it and run that again"


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it takes the place of `path`, on failure it
    is removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(
        prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent
    )
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files private to the user; results are ordinary files.
        temporary.chmod(0o666 & ~_umask())
        _fsync(temporary)
        temporary.replace(path)
        _fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_dir(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it takes the place of `path`, on failure
    it is removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        for file in temporary.rglob("*"):
            _fsync(file)
        # A folder cannot be renamed over a non-empty one: move the old one away first.
        aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
        if path.exists():
            path.replace(aside / path.name)
        temporary.replace(path)
        _fsync(path.parent)
        shutil.rmtree(aside)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def require(path: Path, what: str, hint: str) -> Path:
    """Return `path` if it exists, else raise InputError with its description `what` and the remedy
    `hint`.
    """
    if not Path(path).exists():
        raise InputError(f"{what} not found at {path}: {hint}")
    return Path(path)


def refuse_output(path: Path, *inputs: Path | None) -> None:
    """Raise InputError when the output `path` is a folder or one of its own inputs; call it before
    any work.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder: name a file to write")
    if any(
        other is not None and path.exists() and other.exists() and path.samefile(other)
        for other in inputs
    ):
        raise InputError(f"{path} would be written over its own input: name another file")


def write_json(path: Path, obj: Any) -> None:
    """Write `obj` as indented JSON; NaN and infinity are refused (they are not JSON)."""
    text = json.dumps(obj, indent=2, allow_nan=False, ensure_ascii=False)
    with atomic_file(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read JSON; InputError when the file is missing or not JSON."""
    require(path, "JSON file", "run `dvc repro`, or `dvc pull` if it was made elsewhere")
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid JSON ({error}): {_BROKEN}") from error


def write_parquet(
    path: Path, frame: pd.DataFrame, attributes: Mapping[str, str] | None = None
) -> None:
    """Write a frame as zstd parquet without its index; `attributes` come back as `attrs` of the
    frame read.
    """
    if attributes is not None:
        frame = frame.copy(deep=False)
        frame.attrs = dict(attributes)
    with atomic_file(path) as temporary:
        frame.to_parquet(temporary, index=False, compression="zstd")


def read_parquet(path: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read a parquet file; InputError when it is missing, truncated or lacks one of `columns`."""
    require(path, "parquet file", "run `dvc repro`, or `dvc pull` if it was made elsewhere")
    try:
        return pd.read_parquet(path, columns=None if columns is None else list(columns))
    except (OSError, ValueError) as error:
        # pyarrow's errors are ValueErrors whose text may run over several lines.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} cannot be read as parquet ({reason}): {_BROKEN}") from error


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """Write a frame as CSV without its index."""
    with atomic_file(path) as temporary:
        frame.to_csv(temporary, index=False)


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, or of a folder's sorted relative names and bytes, as hex."""
    path = Path(path)
    if path.is_file():
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    digest = hashlib.sha256()
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()}\0{sha256(file)}\n".encode())
    return digest.hexdigest()


def sha256_json(obj: Any) -> str:
    """SHA-256 of the canonical JSON of `obj` (sorted keys, no spaces), as hex."""
    text = json.dumps(obj, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
