"""The committed anchors: bytes that no change of the generator may move."""

from __future__ import annotations

import hashlib
from pathlib import Path

from isic.data.anchors import ANCHOR_TILES, anchor_tiles

#: Rotations of stored embeddings and the hash in every bundle depend on these bytes.
SHA256 = "6f2b92dbfdcc7a8e72e3ffa19bcb9cebda15c17f9cbc87268d7cda59418fb9b6"


def test_the_anchors_stay_as_they_are() -> None:
    assert hashlib.sha256(ANCHOR_TILES.read_bytes()).hexdigest() == SHA256
    store = anchor_tiles()
    assert len(store.ids()) == 256
    assert all(store.image(name).ndim == 3 for name in store.ids())


def test_the_anchors_are_small_and_installed_with_the_package(root: Path) -> None:
    assert ANCHOR_TILES.stat().st_size < 1 << 20
    assert f'"*{ANCHOR_TILES.suffix}"' in (root / "pyproject.toml").read_text()
