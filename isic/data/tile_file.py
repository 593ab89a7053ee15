"""Write tiles in the form of the official HDF5 file."""

from __future__ import annotations

import errno
import functools
import os
import shutil
from pathlib import Path

import h5py
import numpy as np

#: Bytes that must be free before some hundred tiles are written: they, and what HDF5 has yet to
#: write of those before them.
_ROOM = 16 << 20


def check_room(path: Path) -> None:
    """Raise OSError when the disk of `path` is nearly full.

    HDF5 crashes the process when it cannot write out what it holds on closing: stop while it still
    can.
    """
    if shutil.disk_usage(path.parent).free < _ROOM:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def put_tile(file: h5py.File, isic_id: str, data: bytes) -> None:
    """Add a tile: a scalar `|S<n>` of JPEG bytes named by its isic_id.

    The low-level calls: h5py's create_dataset takes three times as long for a scalar.
    """
    kind = h5py.h5t.C_S1.copy()
    kind.set_size(len(data))
    kind.set_strpad(h5py.h5t.STR_NULLPAD)
    dataset = h5py.h5d.create(file.id, isic_id.encode(), kind, *_scalar_without_times())
    dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, np.array(data, dtype=f"S{len(data)}"), kind)


@functools.cache
def _scalar_without_times() -> tuple[h5py.h5s.SpaceID, h5py.h5p.PropDCID]:
    """Space and properties of every tile. Without times in the file the same request gives the same
    bytes, and DVC sees no change.
    """
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_obj_track_times(False)
    return h5py.h5s.create(h5py.h5s.SCALAR), properties
