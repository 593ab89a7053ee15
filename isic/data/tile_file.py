"""Write tiles in the official form: one scalar `|S<n>` dataset of JPEG bytes per isic_id."""

from __future__ import annotations

import h5py
import numpy as np


def put_tile(file: h5py.File, name: str, data: bytes) -> None:
    """Add the JPEG bytes of one tile."""
    # The low-level calls: h5py's create_dataset takes three times as long for a scalar.
    kind = h5py.h5t.C_S1.copy()
    kind.set_size(len(data))
    kind.set_strpad(h5py.h5t.STR_NULLPAD)
    # Without times in the file the same request gives the same bytes, and DVC sees no change.
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_obj_track_times(False)
    dataset = h5py.h5d.create(
        file.id, name.encode(), kind, h5py.h5s.create(h5py.h5s.SCALAR), properties
    )
    dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, np.array(data, dtype=f"S{len(data)}"))
