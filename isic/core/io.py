"""Atomic file writes, checked reads, hashes.

Writers use a temporary name in the same folder, fsync and rename. Readers raise `InputError` for a
missing, empty or truncated file.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import socket
import stat
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from isic.core.errors import InputError

_Stored = TypeVar("_Stored")

#: Remedy for a broken file, a stage's output or the user's own.
_BROKEN = "name another file, or, if `dvc repro` made it, delete it and run that again"


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def output_path(path: Path) -> Path:
    """The path to which a result at `path` is written: the target of a link.

    A link to a read-only file is one of DVC's into its cache: the result replaces the link. Raises
    InputError for a device, pipe or socket, which a rename would replace, and for a link that leads
    nowhere.
    """
    path = Path(path)
    try:
        state = path.stat()
    except FileNotFoundError:
        return path.resolve() if path.is_symlink() else path
    except ValueError as error:
        raise InputError(f"{str(path)!r} is no path ({error}): name another file") from error
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise InputError(f"{path} is a link that leads nowhere: name another file") from error
    if not stat.S_ISREG(state.st_mode) and not stat.S_ISDIR(state.st_mode):
        raise InputError(f"{path} is a device, pipe or socket: name a file to write")
    is_cached = stat.S_ISREG(state.st_mode) and not state.st_mode & 0o222
    return path.resolve() if path.is_symlink() and not is_cached else path


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `output_path(path)`; on success it replaces that
    file, on failure it is removed.
    """
    path = output_path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder: name a file to write")
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path.parent)
    descriptor, name = tempfile.mkstemp(
        prefix=_temporary_prefix(), suffix=_suffix(path), dir=path.parent
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
def scratch_dir(folder: Path | None = None) -> Iterator[Path]:
    """Yield a temporary folder in `folder` (None: among the system's temporary files), removed at
    exit; those of killed processes are removed first.
    """
    folder = folder or Path(tempfile.gettempdir())
    _sweep(folder)
    temporary = Path(tempfile.mkdtemp(prefix=_temporary_prefix(), dir=folder))
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def atomic_dir(path: Path) -> Iterator[Path]:
    """Yield a temporary folder in the folder of `output_path(path)`; on success it replaces that
    folder, on failure it is removed.
    """
    path = output_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with scratch_dir(path.parent) as temporary:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        for file in temporary.rglob("*"):
            # Some libraries make their files private too; those of DVC's cache stay read-only.
            if not file.stat().st_mode & 0o077:
                file.chmod((0o777 if file.is_dir() else 0o666) & ~_umask())
            _fsync(file)
        # A folder cannot be renamed over a non-empty one: move the old one away first.
        aside = Path(tempfile.mkdtemp(prefix=_temporary_prefix(), dir=path.parent))
        if path.exists():
            path.replace(aside / "old")
        temporary.replace(path)
        _fsync(path.parent)
        shutil.rmtree(aside)


@contextmanager
def atomic_files(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder inside `folder`; on success its files move into `folder`, on failure
    they are removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with scratch_dir(folder) as temporary:
        yield temporary
        for file in sorted(temporary.iterdir()):
            file.replace(folder / file.name)
        _fsync(folder)


#: Start of the names of temporary files, which git and DVC ignore.
TEMPORARY = ".isic-tmp-"


def _temporary_prefix() -> str:
    return f"{TEMPORARY}{_host()}-{os.getpid()}-"


def _host() -> str:
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"


def _suffix(path: Path) -> str:
    # Some writers choose the format by the suffix; a long one would make the name too long.
    return path.suffix if len(path.suffix) < 20 else ""


@lru_cache
def _sweep(folder: Path) -> None:
    """Remove temporary files of this machine's killed processes from `folder`; once per process."""
    for left in folder.glob(f"{TEMPORARY}{_host()}-*"):
        owner = left.name.removeprefix(f"{TEMPORARY}{_host()}-").partition("-")[0]
        if owner.isdigit() and not _is_alive(int(owner)):
            with suppress(OSError):
                shutil.rmtree(left) if left.is_dir() else left.unlink()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def require(path: Path, description: str, hint: str) -> Path:
    """Return `path` if it exists, else raise InputError with its `description` and the remedy
    `hint`.
    """
    if not Path(path).exists():
        raise InputError(f"{description} not found at {path}: {hint}")
    return Path(path)


def refuse_output(path: Path, *inputs: Path | None) -> None:
    """Raise InputError when the output `path` is a folder, no file, one of its own inputs or inside
    of one, and what the system raises when its folder cannot be written to; call it before any
    work.
    """
    target = output_path(path)
    if target.is_dir():
        raise InputError(f"{path} is a folder: name a file to write")
    for other in inputs:
        if other is None or not other.exists():
            continue
        if target.exists() and target.samefile(other):
            raise InputError(f"{path} would be written over its own input: name another file")
        if other.is_dir() and target.resolve().is_relative_to(other.resolve()):
            raise InputError(f"{path} would be written into its own input {other}: name another")
    folder = next(parent for parent in target.absolute().parents if parent.exists())
    try:
        Path(tempfile.mkdtemp(prefix=_temporary_prefix(), dir=folder)).rmdir()
    except OSError as error:
        error.filename = str(path)
        raise


def write_json(path: Path, obj: Any) -> None:
    """Write `obj` as indented JSON; NaN and infinity are refused (they are not JSON)."""
    text = json.dumps(obj, indent=2, allow_nan=False, ensure_ascii=False)
    with atomic_file(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read JSON; InputError when the file is missing or not JSON, NaN and infinity included."""
    require(path, "JSON file", "run `dvc repro`, or `dvc pull` if it was made elsewhere")
    try:
        return parse_json(Path(path).read_bytes())
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}): {_BROKEN}") from error


def parse_json(data: bytes) -> Any:
    """Parse UTF-8 JSON as RFC 8259 has it; ValueError for NaN, infinity and nesting without end."""
    try:
        return json.loads(data.decode("utf-8"), parse_constant=_refuse_constant, parse_float=_float)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def typed(model: type[_Stored], content: Any) -> _Stored:
    """`content`, read from JSON, as `model` (a pydantic model or a dataclass), without conversions:
    text is no number and a boolean neither. Raises pydantic's ValidationError.
    """
    from pydantic import TypeAdapter

    return TypeAdapter(model).validate_json(json.dumps(content), strict=True)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large")
    return value


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
        number = getattr(error, "errno", None)
        if number:  # no permission, too many open files: the file may be healthy
            raise OSError(number, os.strerror(number), str(path)) from error
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
