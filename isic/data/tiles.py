"""Lesion tiles of one HDF5 file.

Each tile is a scalar dataset of JPEG bytes named by its isic_id (checked on the official file).
Files that people pack themselves are read too: tiles in groups, with file suffixes in their names,
as opaque bytes (`np.void`) or arrays of uint8. Links and external storage raise: a file of tiles may
come from an untrusted source. This is the only decoder of the project, so training, embedding and
submission get the same pixels.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np

from isic.core.errors import InputError
from isic.data.jpeg import scan_fault

#: Real tiles are 51 to 239 px wide. Larger sides raise: a few kilobytes of JPEG can claim 65,535 ×
#: 65,535 pixels and 12 GB of memory.
_MAX_SIDE = 4096
#: Real tiles are about 2.75 KB.
MAX_JPEG_BYTES = 8 << 20
#: Exceptions of h5py for a damaged file.
_DAMAGE = (OSError, RuntimeError, KeyError, ValueError)


class TileStore:
    """Tiles of one HDF5 file by isic_id; `isic.data.image_files` has those of folders and zips.

    Picklable and safe across fork: each process opens its own HDF5 handle at first use.
    """

    #: Path in the file by isic_id where the form is not the official one; None: not yet read.
    _paths: dict[str, bytes] | None = None

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._file: h5py.File | None = None
        self._pid = -1
        if not self.path.is_file():
            raise InputError(
                f"{self.path} not found: run `dvc repro data`, or set data.folder to the official"
                " files"
            )

    def _open(self) -> h5py.File:
        if self._file is None or self._pid != os.getpid():
            try:
                # Reading needs no lock, and some mounts have none.
                self._file = h5py.File(self.path, "r", locking=False)
            except OSError as error:
                if error.errno:
                    raise self._damaged(error) from error
                if not h5py.is_hdf5(self.path):
                    raise InputError(f"{self.path} is no HDF5 file: name another file") from error
                raise InputError(
                    f"{self.path} is not a complete HDF5 file ({_short(error)}): copy it again, or"
                    " name another file"
                ) from error
            self._pid = os.getpid()
        return self._file

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_paths": self._paths, "_file": None, "_pid": -1}

    def __len__(self) -> int:
        return len(self.ids())

    def __contains__(self, isic_id: str) -> bool:
        # Paths ("a/b", ".", "") are not ids: HDF5 resolves them through links of any kind.
        is_path = isic_id in ("", ".") or "/" in isic_id or "\0" in isic_id
        if is_path:
            return False
        try:
            if self._other_form():
                return isic_id in self._other_form()
            return bool(self._open().id.links.exists(isic_id.encode()))
        except _DAMAGE as error:
            raise self._damaged(error) from error

    def ids(self) -> list[str]:
        """All isic_ids of the file."""
        try:
            names = list(self._other_form() or self._open())
        except _DAMAGE as error:
            raise self._damaged(error) from error
        if not all(isinstance(name, str) for name in names):
            # h5py returns a name that is not text as bytes.
            raise InputError(
                f"{self.path} is a damaged HDF5 file (a name is not text): copy it again, or name"
                " another file"
            )
        return names

    @property
    def official(self) -> bool:
        """Whether the file has the official form: scalars of bytes, all at its root, without
        suffixes; judged by the first and the last name.
        """
        try:
            root = self._open().id
            return not self._other_form() and all(
                _is_scalar_string(h5py.h5o.open(root, name)) for name in _ends(root)
            )
        except _DAMAGE as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> Exception:
        number = getattr(error, "errno", None)
        if number:  # no permission, too many open files: the file may be healthy
            return OSError(number, os.strerror(number), str(self.path))
        return InputError(
            f"{self.path} is a damaged HDF5 file ({_short(error)}): copy it again, or name another"
            " file"
        )

    def _other_form(self) -> dict[str, bytes]:
        if self._paths is None:
            root = self._open().id
            self._paths = _tile_paths(root, self.path) if _has_other_form(root) else {}
        return self._paths

    def state(self) -> list[int]:
        """Numbers that change with the file: its size and time of change."""
        found = self.path.stat()
        return [found.st_size, found.st_mtime_ns]

    def close(self) -> None:
        """Close this process's handle; the next access opens it again."""
        if self._file is not None and self._pid == os.getpid():
            self._file.close()
        self._file = None

    def jpeg(self, isic_id: str) -> bytes:
        """The stored bytes of one tile. Raises InputError when the tile is missing, no bytes, or
        huge.
        """
        try:
            return self._read(isic_id)
        except _DAMAGE as error:
            raise InputError(
                f"{self.path}: tile {isic_id} cannot be read ({_short(error)}): copy the file"
                " again, or drop its metadata row"
            ) from error

    def _read(self, isic_id: str) -> bytes:
        # Low-level calls: h5py's indexing takes two and a half times as long and follows every
        # link.
        if isic_id not in self:
            raise InputError(
                f"{self.path} has no image for {isic_id}: add it or drop its metadata row"
            )
        file, name = self._open().id, self._other_form().get(isic_id) or isic_id.encode()
        if file.links.get_info(name).type != h5py.h5l.TYPE_HARD:
            raise InputError(
                f"{self.path}: {isic_id} is a link: use a file that contains its tiles"
            )
        dataset = h5py.h5o.open(file, name)
        shape = _shape_of_bytes(dataset)
        if shape is None:
            raise InputError(
                f"{self.path}: {isic_id} is not JPEG bytes: use one scalar of bytes a tile, as in"
                " the official file, or one array of uint8"
            )
        if not _lies_here(dataset):
            raise InputError(
                f"{self.path}: the bytes of {isic_id} are in another file, or in chunks of more than"
                f" {MAX_JPEG_BYTES} bytes: use one that contains its tiles"
            )
        kind = dataset.get_type()
        size = kind.get_size() * dataset.get_space().get_simple_extent_npoints()
        if size > MAX_JPEG_BYTES:
            raise InputError(
                f"{self.path}: tile {isic_id} holds {size} bytes, at most {MAX_JPEG_BYTES} are read"
            )
        if kind.get_class() == h5py.h5t.STRING:
            data = np.empty(shape, dtype=f"S{size}")
            dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, data)
            return bytes(data.item())
        data = np.empty(shape, dtype=np.uint8 if kind.get_size() == 1 else f"V{size}")
        dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, data, kind)
        return data.tobytes()

    def image(self, isic_id: str) -> np.ndarray:
        """One tile as uint8 RGB of shape (height, width, 3). Raises InputError naming the id."""
        return decode(self.jpeg(isic_id), isic_id)


def decode(data: bytes, name: str) -> np.ndarray:
    """Decode JPEG bytes to uint8 RGB (height, width, 3).

    Raises InputError naming `name` when the bytes are no JPEG, do not decode, claim more than
    _MAX_SIDE pixels, or decode to another size than they claim.
    """
    height, width = jpeg_size(data, name)
    if max(height, width) > _MAX_SIDE:
        raise InputError(
            f"tile {name} claims {width} x {height} pixels, at most {_MAX_SIDE} a side are decoded:"
            " replace it"
        )
    fault = scan_fault(data)
    if fault is not None:
        raise InputError(f"tile {name} {fault}: replace it")
    # The orientation tag is ignored: tiles have none, and decoders differ in its treatment.
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags)
    except cv2.error as error:
        raise InputError(f"tile {name} does not decode as JPEG: replace it") from error
    if image is None:
        raise InputError(f"tile {name} does not decode as JPEG: replace it")
    if image.shape[:2] != (height, width):
        raise InputError(
            f"tile {name} claims {width} x {height} pixels and decodes to {image.shape[1]} x"
            f" {image.shape[0]}: replace it"
        )
    return np.asarray(image, dtype=np.uint8)


def jpeg_size(data: bytes, name: str) -> tuple[int, int]:
    """(height, width) from the JPEG's frame header, without decoding.

    Walks the marker segments of ITU-T T.81 annex B up to the first SOFn. Raises InputError when
    there is none, or when libjpeg would read a marker before it differently.
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
        # No length follows these markers: libjpeg skips 00, TEM and RSTn, and stops at SOI, EOI and
        # SOS. Reading a length here could skip the header that libjpeg decodes.
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xDA:
            break
        # SOF0..SOF15 without DHT (C4), JPG (C8) and DAC (CC).
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height = int.from_bytes(data[position + 5 : position + 7], "big")
            width = int.from_bytes(data[position + 7 : position + 9], "big")
            if height == 0 or width == 0:
                break
            return height, width
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    raise InputError(f"tile {name} is a JPEG without a readable frame header: replace it")


def is_hidden(path: str) -> bool:
    """Whether a file or folder is hidden or in a hidden folder. macOS writes such copies of the
    attributes of every file, `._NAME` or in `__MACOSX`, and notebooks copies of tables.
    """
    return any(
        part == "__MACOSX" or (part.startswith(".") and part != ".") for part in path.split("/")
    )


def tile_id(name: str) -> str | None:
    """isic_id of a file, member or dataset such as `image/ISIC_0000001.jpg`; None for other files,
    hidden ones and macOS's copies of attributes.
    """
    stem, _, suffix = name.rpartition("/")[2].rpartition(".")
    return stem if stem and suffix.lower() in ("jpg", "jpeg") and not is_hidden(name) else None


def _ends(root: h5py.h5g.GroupID) -> list[bytes]:
    """The first and the last name of the root that is no link: of 400,000 names a walk takes
    seconds, and the form is chosen for a whole file.
    """
    found = [
        root.links.iterate(lambda name: name, order=order)[0]
        for order in (h5py.h5.ITER_INC, h5py.h5.ITER_DEC)
    ]
    return [name for name in found if name and root.links.get_info(name).type == h5py.h5l.TYPE_HARD]


def _has_other_form(root: h5py.h5g.GroupID) -> bool:
    """Whether tiles have file suffixes or are in groups."""
    for name in _ends(root):
        try:
            is_group = isinstance(h5py.h5o.open(root, name), h5py.h5g.GroupID)
        except _DAMAGE:
            continue  # damage is reported when the tile is read
        if is_group or _suffixed(name):
            return True
    return False


def _suffixed(name: bytes) -> bool:
    return tile_id(name.decode(errors="replace")) is not None


def _tile_paths(root: h5py.h5g.GroupID, where: Path) -> dict[str, bytes]:
    """Path of each dataset by isic_id. Links are not followed; an object with two names has the
    first.
    """
    paths: dict[str, bytes] = {}
    twice: list[str] = []

    def add(name: bytes, info: h5py.h5o.ObjInfo) -> None:
        if info.type != h5py.h5o.TYPE_DATASET:
            return
        text = name.decode(errors="replace")
        isic_id = tile_id(text) or text.rpartition("/")[2]
        if isic_id in paths:
            twice.append(isic_id)
        paths[isic_id] = name

    h5py.h5o.visit(root, add, info=True)
    if twice:
        raise InputError(
            f"{where} has {len(twice)} tiles twice, in different groups (first {twice[0]}): keep one"
            " of each"
        )
    return paths


def _is_scalar_string(dataset: Any) -> bool:
    is_string = _shape_of_bytes(dataset) == ()
    return is_string and dataset.get_type().get_class() == h5py.h5t.STRING


def _shape_of_bytes(dataset: Any) -> tuple[int, ...] | None:
    """Shape of a dataset of bytes: one fixed-size string, one opaque value, or an array (n,) of
    single bytes. None for any other.
    """
    if not isinstance(dataset, h5py.h5d.DatasetID):
        return None
    kind, space = dataset.get_type(), dataset.get_space()
    shape: tuple[int, ...] = space.get_simple_extent_dims()
    if space.get_simple_extent_type() == h5py.h5s.NULL or len(shape) > 1:
        return None
    if kind.get_class() == h5py.h5t.INTEGER:
        return shape if kind.get_size() == 1 and len(shape) == 1 else None
    fixed = kind.get_class() == h5py.h5t.OPAQUE or (
        kind.get_class() == h5py.h5t.STRING and not kind.is_variable_str()
    )
    return shape if fixed and space.get_simple_extent_npoints() == 1 else None


def _lies_here(dataset: h5py.h5d.DatasetID) -> bool:
    """Whether the bytes are in this file: with "external" and "virtual" storage HDF5 reads them
    from others. A chunk is read whole, so its size has the limit of a tile.
    """
    properties = dataset.get_create_plist()
    layout = properties.get_layout()
    if layout == h5py.h5d.CHUNKED:
        # The chunks of an array may be larger than the array.
        cells = int(np.prod(properties.get_chunk(), dtype=object))
        return cells * dataset.get_type().get_size() <= MAX_JPEG_BYTES
    return (
        layout in (h5py.h5d.COMPACT, h5py.h5d.CONTIGUOUS) and properties.get_external_count() == 0
    )


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
