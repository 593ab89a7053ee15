"""Damage to a copy of a tiles file, for rehearsals: what a test set may hold and no training set does."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np


def spoil(images: Path, without: str, cut: str) -> None:
    """Take the tile of lesion `without` out of an HDF5 file and cut the JPEG of lesion `cut` off in its middle.

    The cut JPEG keeps its header, so that only decoding it shows the damage.
    """
    with h5py.File(images, "r+") as file:
        del file[without]
        data = bytes(file[cut][()])
        del file[cut]
        file[cut] = np.bytes_(data[: len(data) // 2])
