"""Tile files written by a process of their own, while this one reads the next tiles.

HDF5 takes three times as long for a tile as reading it from a file does.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import h5py

from isic.core.errors import InputError
from isic.data.tile_file import check_room, put_tile


class SpooledTile(NamedTuple):
    """A tile to write: index of its file, isic_id, offset and size in the spool."""

    file: int
    isic_id: str
    offset: int
    size: int


class TileWriter:
    """Context with a process that writes tiles from the spool to HDF5 files, in order of `send`.

    An error there is raised here, by `send` or on exit.
    """

    def __init__(self, spool: Path, files: Sequence[Path]) -> None:
        # fork: starts at once and works from a script on standard input.
        method = "fork" if sys.platform == "linux" else "spawn"
        context: Any = multiprocessing.get_context(method)
        self._pipe, other = context.Pipe()
        self._process = context.Process(
            target=_write, args=(other, self._pipe, spool, list(files)), daemon=True
        )
        self._process.start()
        other.close()

    def __enter__(self) -> TileWriter:
        return self

    def send(self, tiles: Sequence[SpooledTile]) -> None:
        """Have the tiles written; waits when the process is far behind."""
        try:
            self._pipe.send(tiles)
        except OSError:
            self._raise()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self.send([])
                self._raise()
        finally:
            if error is not None:
                self._process.kill()
            self._process.join()
            self._pipe.close()

    def _raise(self) -> None:
        """Wait for the process's answer, an error or None."""
        try:
            answer = self._pipe.recv()
        except EOFError:
            answer = InputError(
                "the process that writes the tiles was killed: free memory or disk space and run the"
                " same command again"
            )
        if answer is not None:
            raise answer


def _write(pipe: Connection, parents_end: Connection, spool: Path, files: Sequence[Path]) -> None:
    parents_end.close()  # else this process would outlive a killed parent
    try:
        with ExitStack() as stack:
            targets = [stack.enter_context(h5py.File(path, "w")) for path in files]
            descriptor = os.open(spool, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            while tiles := pipe.recv():
                check_room(files[0])
                for tile in tiles:
                    data = os.pread(descriptor, tile.size, tile.offset)
                    put_tile(targets[tile.file], tile.isic_id, data)
    except (EOFError, KeyboardInterrupt):
        return  # the parent is gone, or tells the user itself
    except Exception as error:
        with suppress(OSError):
            pipe.send(error)
        return
    pipe.send(None)
