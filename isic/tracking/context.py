"""Tags of a run: hashes of commit, lock file, data and folds; runs with equal data and folds are
comparable.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from isic.core.io import sha256, sha256_json
from isic.core.paths import Layout


def run_tags(root: Path) -> dict[str, str]:
    """Tags of a run started now in the checkout at `root`; tags of missing files are left out."""
    files = Layout(root).training_files
    tags = {
        "git_commit": git(root, "rev-parse", "HEAD"),
        "git_dirty": str(bool(git(root, "status", "--porcelain", "--untracked-files=no"))).lower(),
        "dvc_lock": file_hash(root / "dvc.lock"),
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
    return sha256(path) if path.exists() else ""


def git(root: Path, *arguments: str) -> str:
    """Output of a git command in `root`, "" where there is no git or no repository."""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
