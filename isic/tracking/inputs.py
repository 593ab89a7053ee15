"""Inputs of a stage as DVC records them: md5 of its deps and values of its params.

`dvc.lock` cannot be hashed while stages run, because DVC rewrites it after each of them. These
functions read the deps themselves. Nothing here needs DVC.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path
from typing import Any

from isic.core.io import sha256_json
from isic.core.params import read_yaml


def stage_inputs(root: Path, stage: str) -> str:
    """Hash of the deps and params of `stage` (`stack`, `train_image@vit-0`) in the checkout `root`.

    Equal to `recorded_inputs` of the entry that DVC writes to dvc.lock for it, and equal for all
    folds of a matrix whose items read the same files. "" when dvc.yaml has no such stage or a dep
    is missing.
    """
    name, _, item = stage.partition("@")
    try:
        entry = read_yaml(root / "dvc.yaml")["stages"][name]
        values = read_yaml(root / "params.yaml")
    except (KeyError, TypeError, ValueError):
        return ""

    keys = list(entry.get("matrix", ()))
    # The last key of the matrix has no dash in its values; a backbone's name may have some.
    items = dict(zip(keys, item.rsplit("-", len(keys) - 1), strict=False)) if keys else {}
    deps = [_fill(dep, items) for dep in entry.get("deps", ())]
    if not all((root / dep).exists() for dep in deps):
        return ""

    ignored = _ignored(root)
    hashes = {dep: dvc_md5(root / dep, ignored) for dep in deps}
    params = [_fill(key, items) for key in entry.get("params", ())]
    return _hash(hashes, {key: _value(values, key) for key in params})


def recorded_inputs(entry: Mapping[str, Any]) -> str:
    """Hash of the deps and params in `entry`, a stage of dvc.lock."""
    deps = {dep["path"]: dep["md5"] for dep in entry.get("deps", ())}
    return _hash(deps, entry.get("params", {}).get("params.yaml", {}))


def dvc_md5(path: Path, ignored: tuple[str, ...] = ()) -> str:
    """md5 of a file; of a folder as DVC computes it: of the list of its files, followed by `.dir`.

    `ignored` are patterns of .dvcignore.
    """
    if path.is_file():
        return _md5(path)

    files = sorted(_files(path, ignored), key=lambda file: file.relative_to(path).parts)
    listing = [{"md5": _md5(file), "relpath": file.relative_to(path).as_posix()} for file in files]
    text = json.dumps(listing, sort_keys=True)
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() + ".dir"


def _md5(path: Path) -> str:
    state = path.stat()
    return _file_md5(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=4096)
def _file_md5(path: Path, size: int, changed: int) -> str:
    """Cached by size and time of change: a process hashes the tiles (1.2 GB) once."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _files(folder: Path, ignored: tuple[str, ...]) -> Iterator[Path]:
    for path in folder.iterdir():
        if any(_matches(path, pattern) for pattern in ignored):
            continue
        if path.is_dir():
            yield from _files(path, ignored)
        else:
            yield path


def _matches(path: Path, pattern: str) -> bool:
    if pattern.endswith("/"):
        return path.is_dir() and fnmatch(path.name, pattern.rstrip("/"))
    return fnmatch(path.name, pattern)


def _ignored(root: Path) -> tuple[str, ...]:
    """Patterns of .dvcignore, of which this project uses names only."""
    file = root / ".dvcignore"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))


def _fill(text: str, items: Mapping[str, str]) -> str:
    for key, value in items.items():
        text = text.replace(f"${{item.{key}}}", value)
    return text


def _value(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return values


def _hash(deps: Mapping[str, str], params: Mapping[str, Any]) -> str:
    return sha256_json({"deps": dict(deps), "params": _plain(params)})


def _plain(value: Any) -> Any:
    """`value` with numbers as floats: DVC writes 1.0e-5 as 1e-05, which YAML 1.1 reads as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, bool) or value is None:
        return value
    try:
        return float(value)
    except (TypeError, ValueError):
        return str(value)
