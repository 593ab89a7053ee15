"""Decoded tiles in one flat file, for machines whose disk is quicker than their JPEG decoder.

Optional (`image.cache_gb`): decoding is a small part of what a heavily augmented tile costs. The
size is known from the JPEG headers and said before a byte is written. One file holds the lesions of
all folds, so that folds and backbones share it and its room is taken once. Several may start at
once: the first makes the file, the others wait for it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from isic.core.io import atomic_dir, sha256, sha256_json
from isic.core.locks import locked
from isic.data.tiles import TileStore, jpeg_size

#: The lock is held shared by every process that reads the cache.
_PIXELS, _INDEX, _LOCK = "pixels.bin", "index.npz", "lock"


class Tiles(Protocol):
    """Where decoded tiles come from."""

    path: Path

    def image(self, isic_id: str) -> NDArray[np.uint8]:
        """uint8 RGB (height, width, 3)."""


class _Place(NamedTuple):
    start: int
    height: int
    width: int


class DecodedTiles:
    """Tiles of a cache folder by isic_id; picklable, each process maps the file itself."""

    def __init__(self, folder: Path, path: Path) -> None:
        self.folder = folder
        self.path = path
        self._pixels: NDArray[np.uint8] | None = None
        self._places: dict[str, _Place] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "path": self.path, "_pixels": None, "_places": {}}

    def image(self, isic_id: str) -> NDArray[np.uint8]:
        """One tile as uint8 RGB (height, width, 3), read from the file as it is looked at."""
        if self._pixels is None:
            with np.load(self.folder / _INDEX) as index:
                rows = zip(
                    index["start"].tolist(),
                    index["height"].tolist(),
                    index["width"].tolist(),
                    strict=True,
                )
                self._places = {
                    name: _Place(*row)
                    for name, row in zip(index["ids"].tolist(), rows, strict=True)
                }
            self._pixels = np.memmap(self.folder / _PIXELS, dtype=np.uint8, mode="r")
        start, height, width = self._places[isic_id]
        return self._pixels[start : start + 3 * height * width].reshape(height, width, 3)


@contextmanager
def decoded(
    tiles: TileStore,
    ids: NDArray[np.str_],
    room_gb: float,
    folder: Path,
    say: Callable[[str], None],
) -> Iterator[Tiles]:
    """The tiles decoded on disk if they fit in `room_gb`, else `tiles` itself; `say` hears the size
    either way.

    A new cache takes the place of those in `folder` of other tiles or lesions; one that is being
    read stays, and its room counts.
    """
    if room_gb <= 0:
        yield tiles
        return
    sizes = [jpeg_size(tiles.jpeg(str(name)), str(name)) for name in ids]
    need = sum(3 * height * width for height, width in sizes) / 1e9
    if need > room_gb:
        say(
            f"decoded tiles would take {need:.2f} GB, image.cache_gb allows {room_gb}: decoding"
            " them every time"
        )
        yield tiles
        return
    target = folder / _name(tiles, ids)
    with ExitStack() as reading:
        with locked(folder / _LOCK):
            made = _make(tiles, ids, target, need, room_gb, say)
            if made:
                # Taken before the folder's lock goes: at no time does this cache look unused.
                reading.enter_context(locked(target / _LOCK, shared=True))
        yield DecodedTiles(target, tiles.path) if made else tiles


def _make(
    tiles: TileStore,
    ids: NDArray[np.str_],
    target: Path,
    need: float,
    room_gb: float,
    say: Callable[[str], None],
) -> bool:
    """Write the cache unless it is there; False when those that are being read leave it no room."""
    if (target / _INDEX).is_file():
        return True
    taken = _clear(target.parent)
    if need + taken > room_gb:
        say(
            f"decoded tiles would take {need:.2f} GB beside {taken:.2f} GB that other runs read,"
            f" image.cache_gb allows {room_gb}: decoding them every time"
        )
        return False
    say(f"writes decoded tiles, {need:.2f} GB, to {target}")
    _write(tiles, ids, target)
    return True


def _clear(folder: Path) -> float:
    """Remove every cache that nobody reads, half-written ones of killed processes too; returns the
    GB that stay.
    """
    taken = 0
    for pixels in list(folder.glob(f"*/{_PIXELS}")):
        with suppress(OSError), locked(pixels.with_name(_LOCK), patience=0) as unread:
            if unread:
                shutil.rmtree(pixels.parent)
        taken += pixels.stat().st_size if pixels.is_file() else 0
    return taken / 1e9


def _name(tiles: TileStore, ids: NDArray[np.str_]) -> str:
    """Name of the cache: the tile file's hash and the lesions', in whatever order."""
    return sha256_json([sha256(tiles.path), sorted(ids.tolist())])[:16]


def _write(tiles: TileStore, ids: NDArray[np.str_], target: Path) -> None:
    start, heights, widths = (
        np.zeros(len(ids), np.int64),
        np.zeros(len(ids), np.int64),
        np.zeros(len(ids), np.int64),
    )
    with atomic_dir(target) as temporary, (temporary / _PIXELS).open("wb") as stream:
        for number, name in enumerate(ids):
            tile = tiles.image(str(name))
            start[number], (heights[number], widths[number]) = stream.tell(), tile.shape[:2]
            stream.write(np.ascontiguousarray(tile).tobytes())
        np.savez(temporary / _INDEX, ids=ids, start=start, height=heights, width=widths)
