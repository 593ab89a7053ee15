"""Lesion tiles from the one HDF5 file they come in.

Each tile is a scalar dataset of JPEG bytes named by its isic_id (checked on the official file). This is the only
decoder of the project: training, embedding and submission must see the same pixels.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np

from isic.core.errors import InputError

#: Real tiles are 51 to 239 px wide. A file is not trusted beyond this side: a few kilobytes of JPEG can claim
#: 65,535 × 65,535 pixels and 12 GB of memory.
MAX_SIDE = 4096
#: Real tiles are about 2.75 KB.
MAX_BYTES = 8 << 20


class TileStore:
    """Tiles of one HDF5 file by isic_id.

    Picklable, and safe across fork: HDF5 handles do not survive a fork, so each process opens its own at first use.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._file: h5py.File | None = None
        self._pid = -1
        if not self.path.is_file():
            raise InputError(f"{self.path} not found: run `dvc repro data`, or set data.folder to the official files")

    def _open(self) -> h5py.File:
        if self._file is None or self._pid != os.getpid():
            try:
                self._file = h5py.File(self.path, "r")
            except OSError as error:
                raise InputError(
                    f"{self.path} is not a complete HDF5 file ({_short(error)}): fetch it again"
                ) from error
            self._pid = os.getpid()
        return self._file

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_file": None, "_pid": -1}

    def __len__(self) -> int:
        return len(self._open())

    def __contains__(self, isic_id: str) -> bool:
        return isic_id in self._open()

    def ids(self) -> list[str]:
        """All isic_ids of the file."""
        return list(self._open())

    def close(self) -> None:
        """Close this process's handle; the next access opens it again."""
        if self._file is not None and self._pid == os.getpid():
            self._file.close()
        self._file = None

    def jpeg(self, isic_id: str) -> bytes:
        """The stored bytes of one tile. Raises InputError when the tile is missing, not a scalar, or huge."""
        try:
            dataset = self._open()[isic_id]
            if not isinstance(dataset, h5py.Dataset) or dataset.shape != () or dataset.dtype.kind not in "SO":
                raise InputError(f"{self.path}: {isic_id} is not a scalar of JPEG bytes: use the official file's form")
            if dataset.dtype.itemsize > MAX_BYTES:
                raise InputError(
                    f"{self.path}: tile {isic_id} holds {dataset.dtype.itemsize} bytes, at most {MAX_BYTES} are read"
                )
            return bytes(dataset[()])
        except KeyError as error:
            raise InputError(f"{self.path} has no image for {isic_id}: add it or drop its metadata row") from error
        except OSError as error:
            raise InputError(
                f"{self.path}: tile {isic_id} cannot be read ({_short(error)}): fetch the file again"
            ) from error

    def image(self, isic_id: str) -> np.ndarray:
        """One tile as uint8 RGB of shape (height, width, 3). Raises InputError naming the id."""
        return decode(self.jpeg(isic_id), isic_id)


def decode(data: bytes, name: str) -> np.ndarray:
    """Decode JPEG bytes to uint8 RGB (height, width, 3).

    Raises InputError naming `name` when the bytes are no JPEG, do not decode, or claim more than MAX_SIDE pixels.
    """
    height, width = jpeg_size(data, name)
    if max(height, width) > MAX_SIDE:
        raise InputError(
            f"tile {name} claims {width} x {height} pixels, at most {MAX_SIDE} a side are decoded: replace it"
        )
    # The orientation tag is ignored: tiles have none, and a flip hidden in metadata would differ between decoders.
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags)
    except cv2.error as error:
        raise InputError(f"tile {name} does not decode as JPEG: replace it") from error
    if image is None:
        raise InputError(f"tile {name} does not decode as JPEG: replace it")
    return np.asarray(image, dtype=np.uint8)


def jpeg_size(data: bytes, name: str) -> tuple[int, int]:
    """(height, width) from the JPEG's frame header, without decoding.

    Walks the marker segments of ITU-T T.81 annex B up to the first SOFn. Raises InputError when there is none.
    """
    position = 2
    if data[:2] != b"\xff\xd8":
        raise InputError(f"tile {name} is not a JPEG: replace it")
    while position + 9 <= len(data):
        if data[position] != 0xFF:
            break
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        # SOF0..SOF15 without DHT (C4), JPG (C8) and DAC (CC).
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height = int.from_bytes(data[position + 5 : position + 7], "big")
            width = int.from_bytes(data[position + 7 : position + 9], "big")
            if height == 0 or width == 0:
                break
            return height, width
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    raise InputError(f"tile {name} is a JPEG without a readable frame header: replace it")


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
