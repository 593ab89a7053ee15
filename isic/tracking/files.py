"""Artifacts between two stores, file by file: what is there already with the same size is not sent again."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlparse

if TYPE_CHECKING:
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

#: Ids have equal lengths, so a file in which they are replaced keeps its size.
Rewrite = Callable[[str], str]


def repository(location: str, uri: str, fallback: Path | None = None) -> ArtifactRepository:
    """The artifacts at `location` of the store `uri`.

    A checkout that was moved has absolute paths of its old place in its database: what is not there is looked for in
    `fallback`, the folder mlartifacts beside the database.
    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    parsed = urlparse(location)
    if fallback is not None and parsed.scheme in ("", "file"):
        path = Path(unquote(parsed.path))
        if not path.exists() and "mlartifacts" in path.parts:
            inside = path.parts[path.parts.index("mlartifacts") + 1 :]
            if fallback.joinpath(*inside).exists():
                location = fallback.joinpath(*inside).as_uri()
    return get_artifact_repository(location, tracking_uri=uri)


def listing(repo: ArtifactRepository, folder: str | None = None) -> dict[str, int]:
    """Size in bytes of every file below `folder`, by path."""
    return dict(_walk(repo, folder))


def _walk(repo: ArtifactRepository, folder: str | None) -> Iterator[tuple[str, int]]:
    for entry in repo.list_artifacts(folder):
        if entry.is_dir:
            yield from _walk(repo, entry.path)
        else:
            yield entry.path, int(entry.file_size or 0)


def copy_files(source: ArtifactRepository, target: ArtifactRepository, rewrite: Rewrite) -> tuple[int, int]:
    """Copy what `target` lacks; `rewrite` is applied to MLmodel files, which name their own run and model.

    Returns how many files were copied, and how many there are. Raises ValueError naming a file that arrived with
    another size.
    """
    wanted, there = listing(source), listing(target)
    missing = [path for path, size in wanted.items() if there.get(path) != size]
    for path in missing:
        with tempfile.TemporaryDirectory(prefix="isic-copy-") as scratch:
            local = Path(source.download_artifacts(path, dst_path=scratch))
            if local.name == "MLmodel":
                text = local.read_text(encoding="utf-8")
                local.unlink()
                local.write_text(rewrite(text), encoding="utf-8")
            folder = str(Path(path).parent)
            target.log_artifact(str(local), None if folder == "." else folder)
            shutil.rmtree(scratch, ignore_errors=True)
    if missing:
        there = listing(target)
    for path, size in wanted.items():
        if there.get(path) != size:
            raise ValueError(f"{path} has {there.get(path)} bytes instead of {size}")
    return len(missing), len(wanted)
