"""Batches of decoded tiles for training and embedding, loaded in this process or in loader
processes.

One stream of batches covers all epochs, so training does not wait at the start of an epoch. The
content of a batch depends on its slot alone, not on the loader process that loads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from isic.core.errors import InputError
from isic.core.parallel import cores
from isic.image.network.cache import Tiles
from isic.image.network.pixels import Images, pack

#: Bytes of decoded tiles kept in memory by a process that loads its own batches.
_MEMORY = 512 << 20


class HasRows(Protocol):
    """Slot of a batch: the rows to load."""

    @property
    def rows(self) -> NDArray[np.int64]:
        """Indices (n,) into the ids."""


SlotT = TypeVar("SlotT", bound=HasRows)

#: Changes the tiles of a slot before they are packed. Loader processes receive a pickled copy.
Transform = Callable[[Images, SlotT], Images]


@dataclass
class Batch(Generic[SlotT]):
    """Packed tiles of one slot: see `pixels.pack`; `rows` int64 (n,) are those of the slot."""

    canvas: Tensor
    sizes: Tensor
    rows: Tensor
    slot: SlotT

    def pin_memory(self) -> Batch[SlotT]:
        """The batch in page-locked memory, which copies to a GPU without a wait. Called by
        DataLoader.
        """
        tensors = (self.canvas, self.sizes, self.rows)
        canvas, sizes, rows = (tensor.pin_memory() for tensor in tensors)
        return Batch(canvas, sizes, rows, self.slot)


class TileReader:
    """Decoded tiles by row; keeps up to `memory` bytes of them. Picklable."""

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


class _Batches(Dataset[Batch[SlotT] | InputError]):
    """Maps a slot to its batch, or to the error of a tile in it."""

    def __init__(self, reader: TileReader, transform: Transform[SlotT] | None) -> None:
        self.reader = reader
        self.transform = transform

    def __getitem__(self, slot: SlotT) -> Batch[SlotT] | InputError:
        try:
            tiles: Images = [self.reader[row] for row in slot.rows.tolist()]
        except InputError as error:
            # Returned, because DataLoader adds a loader process's traceback to what it raises.
            return error

        if self.transform is not None:
            tiles = self.transform(tiles, slot)
        return Batch(*pack(tiles), torch.from_numpy(slot.rows), slot)


def batches(
    tiles: Tiles,
    ids: NDArray[np.str_],
    slots: Iterable[SlotT],
    workers: int,
    pin: bool,
    transform: Transform[SlotT] | None = None,
    memory: int = _MEMORY,
) -> Iterator[Batch[SlotT]]:
    """One batch per slot, in order. With `workers` 0, this process loads them and keeps up to
    `memory` bytes of tiles.

    Raises InputError naming a tile that is missing or broken.
    """
    if workers == 0:
        source = _Batches(TileReader(tiles, ids, memory), transform)
        for slot in slots:
            batch = _checked(source[slot])
            yield batch.pin_memory() if pin else batch
        return

    loader = DataLoader(
        _Batches(TileReader(tiles, ids, memory=0), transform),
        sampler=slots,  # any iterable of slots
        batch_size=None,
        num_workers=workers,
        prefetch_factor=4,
        pin_memory=pin,
        worker_init_fn=_one_thread,
    )
    for item in loader:
        yield _checked(item)


def _checked(item: Batch[SlotT] | InputError) -> Batch[SlotT]:
    if isinstance(item, InputError):
        raise item
    return item


def _one_thread(_: int) -> None:
    import cv2

    torch.set_num_threads(1)
    cv2.setNumThreads(0)


def default_workers(device: torch.device, processes: int = 1) -> int:
    """Loader processes for each of `processes` training processes on this machine.

    None on a CPU, whose cores the network needs.
    """
    if device.type == "cpu":
        return 0
    return max(1, min(16, (cores() - 1) // processes))
