"""Anchors: 256 generated tiles that no network was trained on, the same for the network of every
fold.

Each lesion of the training table is in the training set of all fold networks of a backbone but one,
so two of them never have a held-out lesion in common. The embeddings of the anchors give the
rotation between the spaces of these networks.

`tiles.hdf5` was made once by `write_sample(folder, 16, 256, 64, 20_240_601)` (patients, lesions,
malignant lesions, seed) as of November 2026. It stays as it is when the generator changes: embeddings
and bundles depend on its bytes. tests/data/test_anchors.py holds its hash.
"""

from __future__ import annotations

from pathlib import Path

from isic.data.tiles import TileStore

ANCHOR_TILES = Path(__file__).parent / "tiles.hdf5"


def anchor_tiles() -> TileStore:
    """The tiles of the anchors; their order is that of `ids()`."""
    return TileStore(ANCHOR_TILES)
