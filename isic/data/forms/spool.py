"""Tiles that were read from a source, in one file on disk: a killed import reads none again.

Beside the bytes there is a list of their ids and sizes. It is written after the bytes are on the
disk, so an interruption costs the tiles since the last `save`.
"""

from __future__ import annotations

import os
import shutil
from array import array
from pathlib import Path


class Spool:
    """Append-only file of tiles. `folder` is emptied when its `key` is another source's."""

    def __init__(self, folder: Path, key: str) -> None:
        self._folder = folder
        if not (folder / "key").is_file() or (folder / "key").read_text() != key:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            (folder / "key").write_text(key)
        self.path = folder / "tiles"
        self._index: dict[str, int] = {}
        self._ends = array("q", [0])
        self._load()
        self.resumed = len(self)
        self._tiles = self.path.open("ab", buffering=1 << 20)
        self._list = (folder / "list").open("a", encoding="utf-8")
        self._listed = len(self)

    def _load(self) -> None:
        self.path.touch()
        size = self.path.stat().st_size
        listing = self._folder / "list"
        text = listing.read_text(encoding="utf-8") if listing.is_file() else ""
        for line in text.splitlines(keepends=True):
            isic_id, _, length = line.rstrip("\n").rpartition(" ")
            whole = line.endswith("\n") and length.isdigit()
            if not whole or self._ends[-1] + int(length) > size:
                break
            self._note(isic_id, int(length))
        os.truncate(self.path, self._ends[-1])
        listing.write_text("".join(map(self._line, self._index)), encoding="utf-8")

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, isic_id: str) -> bool:
        return isic_id in self._index

    def add(self, isic_id: str, data: bytes) -> None:
        """Append a tile that is not yet there."""
        self._tiles.write(data)
        self._note(isic_id, len(data))

    def place(self, isic_id: str) -> tuple[int, int]:
        """Offset and size of a tile in the file, once `flush` was called."""
        row = self._index[isic_id]
        return self._ends[row], self._ends[row + 1] - self._ends[row]

    def ids(self) -> list[str]:
        return list(self._index)

    def flush(self) -> None:
        """Make the tiles readable by other processes."""
        self._tiles.flush()

    def save(self) -> None:
        """Make the tiles outlive a power failure."""
        self._tiles.flush()
        os.fsync(self._tiles.fileno())
        ids = list(self._index)[self._listed :]
        self._list.write("".join(map(self._line, ids)))
        self._list.flush()
        self._listed = len(self)

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self._tiles.close()
        self._list.close()

    @staticmethod
    def holds_tiles(folder: Path) -> bool:
        """Whether a later run finds tiles in `folder`."""
        listing = folder / "list"
        return listing.is_file() and listing.stat().st_size > 0

    def _note(self, isic_id: str, size: int) -> None:
        self._index[isic_id] = len(self._index)
        self._ends.append(self._ends[-1] + size)

    def _line(self, isic_id: str) -> str:
        return f"{isic_id} {self.place(isic_id)[1]}\n"
