"""Corrupt a copy of a tiles file for rehearsals: a hidden test set may hold broken tiles."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np


def corrupt_tiles(images: Path, without: str, cut: str) -> None:
    """Remove the tile of lesion `without` from an HDF5 file and truncate the JPEG of lesion `cut`
    to half.

    The truncated JPEG keeps its header, so only decoding it fails.
    """
    with h5py.File(images, "r+") as file:
        del file[without]
        data = bytes(file[cut][()])
        del file[cut]
        file[cut] = np.bytes_(data[: len(data) // 2])
