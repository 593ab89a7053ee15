"""Copy artifacts between two stores file by file; files already there with the same size are
skipped.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlparse

from isic.core.io import scratch_dir

if TYPE_CHECKING:
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

#: Replaces ids in a text; ids have equal lengths, so the file keeps its size.
_Rewrite = Callable[[str], str]


def repository(location: str, uri: str, fallback: Path | None = None) -> ArtifactRepository:
    """The artifacts at `location` of the store `uri`.

    The database of a moved checkout has absolute paths of its old location; files missing there are
    taken from `fallback`, the folder mlartifacts beside the database.
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


def copy_files(
    source: ArtifactRepository, target: ArtifactRepository, rewrite: _Rewrite
) -> tuple[int, int]:
    """Copy the files that `target` lacks; `rewrite` is applied to MLmodel files, which contain run
    and model ids.

    Returns the number of files copied and the number of all files. Raises ValueError naming a file
    whose copy has another size.
    """
    wanted, there = listing(source), listing(target)
    missing = [path for path, size in wanted.items() if there.get(path) != size]
    with scratch_dir() as scratch:
        for path in missing:
            with tempfile.TemporaryDirectory(dir=scratch) as own:
                local = Path(source.download_artifacts(path, dst_path=own))
                if local.name == "MLmodel":
                    text = local.read_text(encoding="utf-8")
                    local.unlink()
                    local.write_text(rewrite(text), encoding="utf-8")
                folder = str(Path(path).parent)
                target.log_artifact(str(local), None if folder == "." else folder)
    if missing:
        there = listing(target)
    for path, size in wanted.items():
        if there.get(path) != size:
            raise ValueError(f"{path} has {there.get(path)} bytes instead of {size}")
    return len(missing), len(wanted)
