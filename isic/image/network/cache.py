"""Cache of decoded tiles in one flat file, for machines with a disk faster than their JPEG decoder.

Optional (`image.cache_gb`): decoding is a small part of the cost of a heavily augmented tile. The
size is computed from the JPEG headers and printed before the file is written. One file holds the
lesions of all folds, and all folds and backbones share it. When several runs start at once, the
first writes the file and the others wait for it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from isic.core.io import atomic_dir, atomic_file, sha256, sha256_json
from isic.core.locks import locked
from isic.data.tiles import TileStore, jpeg_size

#: Every process that reads the cache holds a shared lock.
_PIXELS, _INDEX, _LOCK = "pixels.bin", "index.npz", "lock"


class Tiles(Protocol):
    """Source of decoded tiles."""

    path: Path

    def image(self, isic_id: str) -> NDArray[np.uint8]:
        """uint8 RGB (height, width, 3)."""


class _Position(NamedTuple):
    start: int
    height: int
    width: int


class DecodedTiles:
    """Tiles of a cache folder by isic_id. Picklable: each process maps the file itself."""

    def __init__(self, folder: Path, path: Path) -> None:
        self.folder = folder
        self.path = path
        self._pixels: NDArray[np.uint8] | None = None
        self._positions: dict[str, _Position] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "path": self.path, "_pixels": None, "_positions": {}}

    def image(self, isic_id: str) -> NDArray[np.uint8]:
        """One tile as uint8 RGB (height, width, 3), mapped from the file."""
        if self._pixels is None:
            with np.load(self.folder / _INDEX) as index:
                rows = zip(
                    index["start"].tolist(),
                    index["height"].tolist(),
                    index["width"].tolist(),
                    strict=True,
                )
                self._positions = {
                    name: _Position(*row)
                    for name, row in zip(index["ids"].tolist(), rows, strict=True)
                }
            self._pixels = np.memmap(self.folder / _PIXELS, dtype=np.uint8, mode="r")
        start, height, width = self._positions[isic_id]
        return self._pixels[start : start + 3 * height * width].reshape(height, width, 3)


@contextmanager
def decoded(
    tiles: TileStore,
    ids: NDArray[np.str_],
    room_gb: float,
    folder: Path,
    write: Callable[[str], None],
) -> Iterator[Tiles]:
    """The tiles decoded on disk if they fit in `room_gb`, else `tiles` itself; `write` prints the
    size.

    A new cache replaces those in `folder` of other tiles or lesions, except those in use, whose
    size counts towards `room_gb`.
    """
    if room_gb <= 0:
        yield tiles
        return

    target = folder / _name(tiles, ids)
    need = _size_gb(tiles, ids, target)
    if need > room_gb:
        write(
            f"decoded tiles would take {need:.2f} GB, image.cache_gb allows {room_gb}: decodes"
            " them every time"
        )
        yield tiles
        return

    with ExitStack() as reading:
        with locked(folder / _LOCK):
            made = _make(tiles, ids, target, need, room_gb, write)
            if made:
                # Locked before the folder is unlocked, so that no process removes this cache.
                reading.enter_context(locked(target / _LOCK, shared=True))
        yield DecodedTiles(target, tiles.path) if made else tiles


def _make(
    tiles: TileStore,
    ids: NDArray[np.str_],
    target: Path,
    need: float,
    room_gb: float,
    write: Callable[[str], None],
) -> bool:
    """Write the cache if it does not exist; False when the caches in use leave too little room."""
    if (target / _INDEX).is_file():
        return True
    taken = _clear(target.parent)
    if need + taken > room_gb:
        write(
            f"decoded tiles would take {need:.2f} GB beside {taken:.2f} GB in use by other runs,"
            f" image.cache_gb allows {room_gb}: decodes them every time"
        )
        return False
    write(f"writes decoded tiles, {need:.2f} GB, to {target}")
    _write(tiles, ids, target)
    return True


def _size_gb(tiles: TileStore, ids: NDArray[np.str_], target: Path) -> float:
    """Size of the decoded tiles by their JPEG headers, which are read once: the size is stored."""
    stored = target.with_suffix(".size")
    if not stored.is_file():
        sizes = [jpeg_size(tiles.jpeg(str(isic_id)), str(isic_id)) for isic_id in ids]
        with atomic_file(stored) as temporary:
            temporary.write_text(str(sum(3 * height * width for height, width in sizes)))
    return int(stored.read_text()) / 1e9


def _clear(folder: Path) -> float:
    """Remove every cache not in use, also unfinished ones of killed processes; returns the GB of
    the others.
    """
    taken = 0
    for pixels in list(folder.glob(f"*/{_PIXELS}")):
        with suppress(OSError), locked(pixels.with_name(_LOCK), patience=0) as unused:
            if unused:
                shutil.rmtree(pixels.parent)
        taken += pixels.stat().st_size if pixels.is_file() else 0
    return taken / 1e9


def _name(tiles: TileStore, ids: NDArray[np.str_]) -> str:
    """Name of the cache: a hash of the tile file and the lesions, whose order does not matter."""
    return sha256_json([sha256(tiles.path), sorted(ids.tolist())])[:16]


def _write(tiles: TileStore, ids: NDArray[np.str_], target: Path) -> None:
    start, heights, widths = np.zeros((3, len(ids)), np.int64)
    with atomic_dir(target) as temporary, (temporary / _PIXELS).open("wb") as stream:
        for index, isic_id in enumerate(ids):
            tile = tiles.image(str(isic_id))
            start[index], (heights[index], widths[index]) = stream.tell(), tile.shape[:2]
            stream.write(np.ascontiguousarray(tile).tobytes())
        np.savez(temporary / _INDEX, ids=ids, start=start, height=heights, width=widths)
