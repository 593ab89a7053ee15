"""Coordinator actor of a prediction run: distributes the bundle and records the attempts at each
shard.

Ray retries the task of a lost worker silently and, when memory is short, without limit. Workers
therefore report every attempt here, so that retries are logged and bounded.
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
    """Actor on the driver's node. `files`: relative path -> reference to a file of the bundle."""

    def __init__(self, files: dict[str, Any], bundle_hash: str) -> None:
        self._files = files
        self._bundle_hash = bundle_hash
        self._code_hash = code_hash()
        self._attempts: dict[str, list[str]] = {}

    def start(self, shard: str, worker: str) -> list[str]:
        """Record that `worker` starts `shard`; returns the workers of earlier attempts."""
        attempts = self._attempts.setdefault(shard, [])
        attempts.append(worker)
        return attempts[:-1]

    def bundle(self) -> tuple[dict[str, Any], str, str]:
        """References to the files, the bundle's hash, the hash of the driver's scoring code."""
        return self._files, self._bundle_hash, self._code_hash


def put_files(ray: Any, folder: Path) -> dict[str, Any]:
    """References to every file of a bundle folder, by relative path."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): ray.put(file.read_bytes()) for file in files}


def receive_bundle(ray: Any, coordinator: Any) -> Bundle:
    """The run's bundle, from this node's copy, which the first worker of the node writes.

    Raises InputError when this node's scoring code differs from the driver's.
    """
    files, bundle_hash, driver_code = ray.get(coordinator.bundle.remote())
    if code_hash() != driver_code:
        raise InputError(
            f"node {ray.util.get_node_ip_address()} has other scoring code than the driver: install"
            " the same version of isic everywhere"
        )

    home = Path(tempfile.gettempdir()) / f"isic-bundles-{os.getuid()}"
    home.mkdir(mode=0o700, exist_ok=True)
    folder = home / bundle_hash[:24]
    with locked(home / f"{folder.name}.lock"):
        if not folder.is_dir():
            _write(ray, files, folder)

    # Every file is checked against the bundle's hashes, so a damaged copy is never used.
    bundle = load_bundle(folder)
    if bundle.manifest.hash != bundle_hash:
        raise InputError(
            f"{folder} holds a bundle of another hash: remove it and run the same command again"
        )
    return bundle


def _write(ray: Any, files: dict[str, Any], folder: Path) -> None:
    with atomic_dir(folder) as temporary:
        for name, reference in files.items():
            target = temporary / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(ray.get(reference))
