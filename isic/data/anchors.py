"""Lesions that no network ever saw: the same 256 generated tiles for every fold's network.

Every lesion of the training table was seen by all fold networks of a backbone but one, so no two of them have an
unseen lesion in common. What each says of these tiles shows how its space is turned against the others'.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from isic.core.schema import ID
from isic.data.sample import write_sample
from isic.data.tables import read_metadata
from isic.data.tiles import TileStore

#: Patients, lesions, malignant ones (many, so that both kinds of picture occur), and a seed of nobody's sample.
_SHAPE = (16, 256, 64, 20_240_601)


@contextmanager
def anchor_tiles() -> Iterator[tuple[TileStore, list[str]]]:
    """The anchors' tiles and ids, in a temporary folder; the same on every machine."""
    with tempfile.TemporaryDirectory() as temporary:
        patients, lesions, positives, seed = _SHAPE
        write_sample(Path(temporary), patients, lesions, positives, seed)
        ids = read_metadata(Path(temporary) / "train-metadata.csv", train=True)[ID].tolist()
        yield TileStore(Path(temporary) / "train-image.hdf5"), ids
