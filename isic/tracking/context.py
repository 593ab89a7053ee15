"""Tags of a run: hashes of commit, lock file, data and folds; runs with equal data and folds are
comparable.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from isic.core.io import sha256, sha256_json
from isic.core.paths import Layout


def run_tags(layout: Layout) -> dict[str, str]:
    """Tags of a run started now in this checkout; tags of missing files are left out."""
    tags = {
        "git_commit": git(layout.root, "rev-parse", "HEAD"),
        "git_dirty": (
            str(bool(git(layout.root, "status", "--porcelain", "--untracked-files=no"))).lower()
        ),
        "dvc_lock": file_hash(layout.root / "dvc.lock"),
        "data_hash": data_hash(layout.train_metadata, layout.train_images),
        "folds_hash": file_hash(layout.folds),
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
