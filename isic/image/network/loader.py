"""Brings micro-batches of augmented tiles to the training loop, in this process or in loader
processes.

Batches run on across epochs, so nobody waits at an epoch's start. A loader process may die or be
added: what a batch holds depends on its slot alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from isic.core.errors import InputError
from isic.core.parallel import cores
from isic.image.network.cache import Tiles
from isic.image.network.pixels import pack
from isic.image.training.augment import Augmenter
from isic.image.training.sampler import Slot

#: Decoded tiles kept by a process that loads for itself.
_MEMORY = 512 << 20


@dataclass
class Batch:
    """Packed tiles of one slot: see `pixels.pack`; `rows` int64 (n,) are those of the slot."""

    canvas: Tensor
    sizes: Tensor
    rows: Tensor
    slot: Slot

    def pin_memory(self) -> Batch:
        """Called by DataLoader where a GPU wants page-locked memory, from which copies do not wait."""
        canvas, sizes, rows = (one.pin_memory() for one in (self.canvas, self.sizes, self.rows))
        return Batch(canvas, sizes, rows, self.slot)


class TileReader:
    """Decoded tiles by row number, remembered as far as memory allows; picklable."""

    def __init__(self, tiles: Tiles, ids: NDArray[np.str_], memory: int) -> None:
        self.tiles = tiles
        self.ids = ids
        self._room = memory
        self._kept: dict[int, NDArray[np.uint8]] = {}

    def __getitem__(self, row: int) -> NDArray[np.uint8]:
        tile = self._kept.get(row)
        if tile is None:
            tile = self.tiles.image(str(self.ids[row]))
            if tile.nbytes <= self._room:
                self._room -= tile.nbytes
                self._kept[row] = tile
        return tile


class _Batches(Dataset[Batch | InputError]):
    """Maps a slot to its batch, or to what is wrong with a tile of it."""

    def __init__(self, reader: TileReader, augment: Augmenter) -> None:
        self.reader = reader
        self.augment = augment

    def __getitem__(self, slot: Slot) -> Batch | InputError:
        pairs = zip(slot.rows.tolist(), slot.position.tolist(), strict=True)
        try:
            tiles = [
                self.augment(self.reader[row], slot.epoch, position) for row, position in pairs
            ]
        except InputError as error:
            # Raised here, it would leave DataLoader with a loader process's whole traceback for its
            # one line.
            return error
        return Batch(*pack(tiles), torch.from_numpy(slot.rows), slot)


def batches(
    tiles: Tiles,
    ids: NDArray[np.str_],
    augment: Augmenter,
    slots: Iterable[Slot],
    workers: int,
    pin: bool,
    memory: int = _MEMORY,
) -> Iterator[Batch]:
    """One batch per slot, in order. `workers` 0 loads in this process and remembers up to `memory`
    bytes of tiles.

    Raises InputError naming a tile that is missing or broken.
    """
    if workers == 0:
        source = _Batches(TileReader(tiles, ids, memory), augment)
        for slot in slots:
            batch = _whole(source[slot])
            yield batch.pin_memory() if pin else batch
        return
    loader = DataLoader(
        _Batches(TileReader(tiles, ids, memory=0), augment),
        sampler=slots,  # any iterable of what the dataset takes
        batch_size=None,
        num_workers=workers,
        prefetch_factor=4,
        pin_memory=pin,
        worker_init_fn=_one_thread,
    )
    for found in loader:
        yield _whole(found)


def _whole(found: Batch | InputError) -> Batch:
    if isinstance(found, InputError):
        raise found
    return found


def _one_thread(_: int) -> None:
    import cv2

    torch.set_num_threads(1)
    cv2.setNumThreads(0)


def default_workers(device: torch.device, processes: int = 1) -> int:
    """Loader processes for each of `processes` here: none beside a network on the CPU, which needs
    the cores itself.
    """
    if device.type == "cpu":
        return 0
    return max(1, min(16, (cores() - 1) // processes))
