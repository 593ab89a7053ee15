"""The desk of a run: it hands out the bundle, and remembers who began what, so that lost work is known and bounded.

Ray repeats the work of a lost worker without a word and, for want of memory, for ever. Every worker therefore says here
what it begins.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from isic.core.errors import InputError
from isic.core.io import atomic_dir
from isic.core.locks import locked
from isic.predict.bundle import Bundle, code_hash, load_bundle


class Coordinator:
    """An actor on the driver's node. `files` are references to the bundle's files by their relative path."""

    def __init__(self, files: dict[str, Any], bundle_hash: str) -> None:
        self._files = files
        self._hash = bundle_hash
        self._code = code_hash()
        self._begun: dict[str, list[str]] = {}

    def begin(self, shard: str, worker: str) -> list[str]:
        """Note that `worker` begins `shard`; returns the workers that did so before it."""
        before = self._begun.setdefault(shard, [])
        before.append(worker)
        return before[:-1]

    def bundle(self) -> tuple[dict[str, Any], str, str]:
        """References to the files, the bundle's hash, the hash of the driver's scoring code."""
        return self._files, self._hash, self._code


def put_files(ray: Any, folder: Path) -> dict[str, Any]:
    """References to every file of a bundle folder, by relative path."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): ray.put(file.read_bytes()) for file in files}


def receive_bundle(ray: Any, desk: Any) -> Bundle:
    """The run's bundle, from this node's copy, which the first worker of the node writes.

    Raises InputError when this node would score by other code than the driver's.
    """
    files, wanted, code = ray.get(desk.bundle.remote())
    if code_hash() != code:
        raise InputError(
            f"node {ray.util.get_node_ip_address()} has other scoring code than the machine the run was started on: "
            "install the same version of isic everywhere"
        )
    home = Path(tempfile.gettempdir()) / f"isic-bundles-{os.getuid()}"
    home.mkdir(mode=0o700, exist_ok=True)
    folder = home / wanted[:24]
    with locked(home / f"{wanted[:24]}.lock"):
        if not folder.is_dir():
            _write(ray, files, folder)
    # Every file is checked against the bundle's hashes, so a damaged copy is never used.
    bundle = load_bundle(folder)
    if bundle.manifest.hash != wanted:
        raise InputError(f"{folder} holds another bundle than its name says: remove it and run the same command again")
    return bundle


def _write(ray: Any, files: dict[str, Any], folder: Path) -> None:
    with atomic_dir(folder) as temporary:
        for name, reference in files.items():
            target = temporary / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(ray.get(reference))
