"""Tags of a run: commit, and hashes of data and folds; runs with equal data and folds are
comparable.
"""

from __future__ import annotations

import subprocess
from functools import lru_cache
from pathlib import Path

from isic.core.io import sha256, sha256_json
from isic.core.paths import Layout


def run_tags(root: Path) -> dict[str, str]:
    """Tags of a run started now in the checkout at `root`; tags of missing files are left out."""
    files = Layout(root).training_files
    changes = _git(root, "status", "--porcelain", "--untracked-files=no")
    tags = {
        "git_commit": git(root, "rev-parse", "HEAD"),
        # Absent where git refuses, for example in a checkout of another owner.
        "git_dirty": "" if changes is None else str(bool(changes)).lower(),
        "data_hash": data_hash(files.metadata, files.tiles),
        "folds_hash": file_hash(files.folds),
    }
    return {name: value for name, value in tags.items() if value}


def data_hash(metadata: Path, images: Path) -> str:
    """Hash of the two official training files, "" while they are absent."""
    hashes = {file.name: file_hash(file) for file in (metadata, images) if file.exists()}
    return sha256_json(hashes) if hashes else ""


def file_hash(path: Path) -> str:
    """SHA-256 of a file, "" when it does not exist."""
    if not path.exists():
        return ""
    state = path.stat()
    return _hash_once(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=64)
def _hash_once(path: Path, size: int, changed: int) -> str:
    """Cached by size and time of change: a process hashes the tiles (1.2 GB) once."""
    return sha256(path)


def git(root: Path, *arguments: str) -> str:
    """Output of a git command in `root`, "" where there is no git or no repository."""
    return _git(root, *arguments) or ""


def _git(root: Path, *arguments: str) -> str | None:
    """As `git`, None where the command failed."""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
