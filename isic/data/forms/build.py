"""Build the five official files from any form of the data."""

from __future__ import annotations

import shutil
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from isic.core.errors import InputError, printable
from isic.core.io import atomic_files
from isic.core.locks import alone
from isic.core.progress import CountProgress
from isic.data.forms.find import Found, find_files, read_tar, unread_text
from isic.data.forms.rows import SourceRows, tables_with_ids
from isic.data.forms.spool import Spool
from isic.data.forms.write import SpooledTile, TileWriter
from isic.data.image_files import FolderTiles, ZipTiles
from isic.data.tiles import TileStore

_TASK = "isic: data import"
#: Tiles per piece of work.
_PIECE = 128
#: Readers of single files: a cold disk or a network answers several at a time.
_READERS = 8
#: Seconds of reading that an interruption may cost.
_SAVE = 5.0


class ImportCounts(NamedTuple):
    """Training lesions, their patients, malignant ones; test lesions."""

    lesions: int
    patients: int
    positives: int
    test: int


def import_data(source: Path, out: Path, work: Path | None = None) -> ImportCounts:
    """Write the five official files to `out` from what `source` holds: a folder, a zip or tar archive.

    Tiles that were read are kept in `work` (default: beside `out`) until the files are complete, so a
    killed import resumes. Raises InputError for anything that is missing or wrong; then nothing is
    written to `out`.
    """
    source, out = Path(source), Path(out)
    work = out.with_name(f".{out.name}.work") if work is None else Path(work)
    for folder in (out, work):
        if folder.resolve().is_relative_to(source.resolve()):
            raise InputError(f"{folder} lies in {source}, which is read: name another folder")
    with alone(out):
        try:
            shutil.rmtree(work / "unpacked", ignore_errors=True)
            found = find_files(source, work)
            with Spool(work / "tiles", found.key) as spool:
                counts = _build(found, spool, out, work)
        except BaseException:
            if not Spool.holds_tiles(work / "tiles"):
                shutil.rmtree(work, ignore_errors=True)
            raise
        shutil.rmtree(work)
        return counts


def _build(found: Found, spool: Spool, out: Path, work: Path) -> ImportCounts:
    if spool.resumed:
        _say(f"{spool.resumed:,} tiles were read by an earlier run, which resumes")
    for path in found.tars:
        found.tables |= _read_tar(path, spool, work, found.unread)
    rows = SourceRows(found.source, tables_with_ids(found.tables))
    _check_tiles(found, spool, rows)
    if found.unread:
        rows.notes.append(f"not read in {found.source}: {unread_text(found.unread)}")
    for note in rows.notes:
        _say(f"note: {note}")
    _refuse(rows.problems, found.source)

    with (
        atomic_files(out) as folder,
        TileWriter(spool.path, [folder / "test-image.hdf5", folder / "train-image.hdf5"]) as writer,
    ):
        known = _pieces(isic_id for isic_id in spool.ids() if isic_id in rows.ids)
        for ids in chain(known, _read_stores(found.stores, spool, rows)):
            writer.send(
                [
                    SpooledTile(file, isic_id, *spool.place(isic_id))
                    for isic_id in ids
                    for file in (0, 1)
                    if rows.ids[isic_id] & 1 << file
                ]
            )
        stand_ins = rows.write(folder)
        if stand_ins:
            _say(
                f"note: {found.source} holds no test rows: {len(stand_ins)} training lesions stand"
                " in for them (put test-metadata.csv and the tiles there for others)"
            )
            writer.send([SpooledTile(0, isic_id, *spool.place(isic_id)) for isic_id in stand_ins])
    train = sum(parts >> 1 for parts in rows.ids.values())
    test = sum(parts & 1 for parts in rows.ids.values()) + len(stand_ins)
    return ImportCounts(train, len(rows.patients), rows.positives, test)


def _read_tar(path: Path, spool: Spool, work: Path, unread: Counter[str]) -> dict[str, Path]:
    """Add the tiles of a tar archive to the spool, the tables' rows being unknown; its tables."""
    tables: dict[str, Path] = {}
    progress, saved = CountProgress(_TASK), time.monotonic()
    for name, content, share in read_tar(path, work, spool.__contains__, unread):
        if isinstance(content, Path):
            tables[name] = content
        elif content is not None:
            spool.add(name, _checked(name, content, path))
        if time.monotonic() - saved > _SAVE:
            spool.save()
            saved = time.monotonic()
        progress.update(share, 1.0, f"{len(spool):,} tiles, {share:.0%} of {path.name}")
    spool.save()
    return tables


def _check_tiles(found: Found, spool: Spool, rows: SourceRows) -> None:
    """Add problems and notes: rows without a tile, tiles without a row or in two places."""
    ids: set[str] = set(spool.ids())
    twice = 0
    for store in found.stores:
        own = store.ids()
        twice += sum(isic_id in ids for isic_id in own) if not spool.resumed else 0
        ids.update(own)
    if twice:
        rows.notes.append(
            f"{twice:,} tiles are in two places of {found.source}: HDF5 files are read before"
            " archives and folders"
        )
    missing = [isic_id for isic_id in rows.ids if isic_id not in ids]
    if missing:
        rows.problems.append(
            f"{len(missing):,} of {len(rows.ids):,} rows have no tile (first {missing[0]}): put the"
            f" .jpg files, or a zip, tar or HDF5 file of them, into {found.source}, or remove the"
            " rows"
        )
    surplus = len(ids) - (len(rows.ids) - len(missing))
    if surplus and rows.ids:
        first = printable(min(ids - rows.ids.keys()))
        rows.notes.append(f"{surplus:,} tiles have no row in a table (first {first}): left out")


def _refuse(problems: Sequence[str], source: Path) -> None:
    if len(problems) == 1:
        raise InputError(problems[0])
    if problems:
        for problem in problems:
            _say(f"missing: {problem}")
        raise InputError(
            f"{source} lacks {len(problems)} things, each in a line above: nothing was written"
        )


def _read_stores(
    stores: Sequence[TileStore], spool: Spool, rows: SourceRows
) -> Iterator[list[str]]:
    """Add the tiles of the rows to the spool; yields the ids of each piece."""
    progress, saved = CountProgress(_TASK), time.monotonic()
    for store in stores:
        wanted = (id for id in store.ids() if id in rows.ids and id not in spool)
        for piece in _read_pieces(store, wanted):
            for isic_id, data in piece:
                spool.add(isic_id, _checked(isic_id, data, store.path))
            spool.flush()
            yield [isic_id for isic_id, _ in piece]
            if time.monotonic() - saved > _SAVE:
                spool.save()
                saved = time.monotonic()
            progress.update(len(spool), len(rows.ids), f"{len(spool):,} of {len(rows.ids):,} tiles")
        store.close()
    spool.save()


def _read_pieces(store: TileStore, ids: Iterator[str]) -> Iterator[list[tuple[str, bytes]]]:
    """Tiles in pieces, in order; files and members by several threads, some pieces ahead."""

    def read(piece: list[str]) -> list[tuple[str, bytes]]:
        return [(isic_id, store.jpeg(isic_id)) for isic_id in piece]

    if not isinstance(store, FolderTiles | ZipTiles):
        yield from map(read, _pieces(ids))  # HDF5 reads one tile at a time
        return
    with ThreadPoolExecutor(_READERS) as pool:
        ahead: deque[Future[list[tuple[str, bytes]]]] = deque()
        for piece in _pieces(ids):
            ahead.append(pool.submit(read, piece))
            if len(ahead) > _READERS:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _pieces(ids: Iterator[str]) -> Iterator[list[str]]:
    while piece := list(islice(ids, _PIECE)):
        yield piece


def _checked(isic_id: str, data: bytes, source: Path) -> bytes:
    """JPEG bytes without the zeros after them, which the official form cannot hold."""
    if not data.startswith(b"\xff\xd8"):
        raise InputError(f"{source}: {printable(isic_id)} is not a JPEG: replace it")
    return data if data[-1] else data.rstrip(b"\0")


def _say(text: str) -> None:
    sys.stderr.write(f"isic: {text}\n")
    sys.stderr.flush()
