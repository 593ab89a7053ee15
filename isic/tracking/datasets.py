"""Data sets of a run: files or folders of the checkout, identified by DVC's md5."""

from __future__ import annotations

import json
from configparser import ConfigParser, Error
from pathlib import Path
from typing import TYPE_CHECKING

from isic.core.errors import redact
from isic.tracking.context import git
from isic.tracking.inputs import dvc_md5

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

#: Tag by which MLflow shows what a data set was used for.
CONTEXT = "mlflow.data.context"


def dataset_input(root: Path, path: Path, context: str) -> DatasetInput:
    """The data set `path` of the checkout `root`, used as `context`.

    Its digest is the md5 that `dvc.lock` records, its source the address in the default DVC remote
    or, without one, path@commit.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag

    name = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
    digest = dvc_md5(path)
    rows = _rows(path)
    dataset = Dataset(
        name,
        digest,
        "local",
        json.dumps({"uri": _source(root, name, digest)}),
        profile=None if rows is None else json.dumps({"num_rows": rows}),
    )
    return DatasetInput(dataset, [InputTag(CONTEXT, context)])


def _source(root: Path, name: str, digest: str) -> str:
    remote = _remote(root)
    if remote:
        return f"{remote.rstrip('/')}/files/md5/{digest[:2]}/{digest[2:]}"
    commit = git(root, "rev-parse", "HEAD")
    return f"{name}@{commit}" if commit else name


def _remote(root: Path) -> str:
    """Address of the checkout's default DVC remote on another machine, "" when there is none."""
    config = ConfigParser(interpolation=None, strict=False)
    try:
        config.read([root / ".dvc" / "config", root / ".dvc" / "config.local"], encoding="utf-8")
        name = config.get("core", "remote", fallback="")
        url = config.get(f"'remote \"{name}\"'", "url", fallback="")
    except Error:
        return ""
    return redact(url) if "://" in url else ""


def _rows(path: Path) -> int | None:
    """Number of rows of a table, None for other files."""
    if path.suffix == ".parquet":
        from pyarrow.parquet import read_metadata

        return int(read_metadata(path).num_rows)
    if path.suffix == ".csv":
        with path.open("rb") as stream:
            return max(0, sum(1 for _ in stream) - 1)
    return None
