"""The committed anchors are the tiles of the generator."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from isic.core.schema import ID
from isic.data.anchors import ANCHOR_TILES, anchor_tiles
from isic.data.sample import write_sample
from isic.data.tables import read_metadata
from isic.data.tiles import TileStore


def test_the_generator_makes_the_committed_anchors(tmp_path: Path) -> None:
    write_sample(tmp_path, 16, 256, 64, 20_240_601)
    generated, committed = TileStore(tmp_path / "train-image.hdf5"), anchor_tiles()
    rows = read_metadata(tmp_path / "train-metadata.csv", train=True)

    assert committed.ids() == rows[ID].tolist()
    for isic_id in committed.ids():
        # Another release of numpy or OpenCV may round a pixel to the next level.
        np.testing.assert_allclose(
            committed.image(isic_id).astype(int), generated.image(isic_id).astype(int), atol=8
        )


def test_the_anchors_are_small_and_installed_with_the_package(root: Path) -> None:
    assert ANCHOR_TILES.stat().st_size < 1 << 20
    assert f'"*{ANCHOR_TILES.suffix}"' in (root / "pyproject.toml").read_text()
