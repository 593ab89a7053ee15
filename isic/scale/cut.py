"""Cuts the official files into shards, streaming: memory holds one shard and twelve bytes a lesion.

Two passes over the table: the first decides which shard each patient goes to, the second sorts its rows into one spool
file a shard. Then each spool meets its tiles.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from isic.core.errors import InputError
from isic.core.schema import ID, PATIENT, TARGET, TEST_COLUMNS
from isic.data.tables import metadata_chunks
from isic.data.tiles import TileStore
from isic.scale.shards import JPEG, MANIFEST, SCHEMA, Manifest, Shard, describe, pack_shard, unpack_shard
from isic.scale.store import Store

#: Rows of the table in memory at a time.
_CHUNK = 20_000
_ROWS = pa.schema([field for field in SCHEMA if field.name != JPEG])


def cut(
    metadata: Path, images: Path | None, out: Store, rows: int = 20_000, megabytes: float = 64, impute: bool = False
) -> Manifest:
    """Write the lesions of a metadata CSV and the tiles of an HDF5 file as shards, and return their manifest.

    A shard holds at most `rows` lesions or about `megabytes`, whichever is less, unless one patient alone has more. A
    lesion without a tile is an error unless `impute` leaves it to prediction. The same files give the same bytes.
    Raises InputError for anything wrong with the files, and when `out` holds shards already.
    """
    if rows < 1 or megabytes <= 0:
        raise InputError(f"shards of {rows} rows or {megabytes} MB: give positive numbers")
    if MANIFEST in out.sizes():
        raise InputError(f"{out.uri} holds shards already: name another folder, or remove it first")
    tiles = None if images is None else TileStore(images)
    if tiles is not None:
        # By the file's mean, since a tile's size is known only once it is read.
        rows = max(1, min(rows, int(megabytes * 1e6 / (tiles.path.stat().st_size / max(len(tiles), 1)))))
    owner, place = _plan(metadata, rows)
    with tempfile.TemporaryDirectory(prefix="isic-shard-") as spool:
        count = _spool(metadata, owner, place, Path(spool))
        shards = tuple(_write(out, Path(spool), number, tiles, impute) for number in range(count))
    manifest = Manifest(shards, tiles is not None)
    out.write(MANIFEST, manifest.to_json())
    return manifest


def index(store: Store) -> Manifest:
    """Write the manifest of shards that others made, reading each whole. Raises InputError for a file that is none."""
    names = sorted(name for name in store.sizes() if name.endswith(".parquet") and not name.startswith((".", "_")))
    if not names:
        raise InputError(f"{store.uri} holds no .parquet file: name the folder of the shards")
    shards, images = [], False
    for name in names:
        data = store.read(name)
        contents = unpack_shard(data, store.where(name))
        images = images or contents.tiles is not None
        shards.append(describe(name, data, len(contents.rows), contents.rows[PATIENT].nunique()))
    manifest = Manifest(tuple(shards), images)
    store.write(MANIFEST, manifest.to_json())
    return manifest


def _pieces(metadata: Path) -> Iterator[pd.DataFrame]:
    with_target = _has_target(metadata)
    for piece in metadata_chunks(metadata, with_target, _CHUNK):
        yield piece[list(TEST_COLUMNS)]


def _has_target(metadata: Path) -> bool:
    if not metadata.is_file():
        raise InputError(f"{metadata} not found: name a CSV with the columns of test-metadata.csv")
    with metadata.open(encoding="utf-8", errors="replace") as stream:
        return TARGET in stream.readline().strip().split(",")


def _plan(metadata: Path, limit: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Patient of each row (n,), by number in order of appearance, and shard of each patient."""
    known: dict[str, int] = {}
    owners, hashes = [], []
    for piece in _pieces(metadata):
        if piece[PATIENT].isna().any():
            line = int(piece.index[piece[PATIENT].isna()][0]) + 2
            raise InputError(f"{metadata} line {line}: patient_id is missing: give every lesion its patient")
        owners.append(np.array([known.setdefault(name, len(known)) for name in piece[PATIENT]], dtype=np.int32))
        hashes.append(pd.util.hash_array(piece[ID].to_numpy(object), categorize=False))
    if not owners:
        raise InputError(f"{metadata} has a header and no rows: put the official file there")
    _refuse_repeated(metadata, np.concatenate(hashes))
    owner = np.concatenate(owners)
    place, number, filled = np.empty(len(known), dtype=np.int32), 0, 0
    for patient, count in enumerate(np.bincount(owner).tolist()):
        if filled and filled + count > limit:
            number, filled = number + 1, 0
        place[patient] = number
        filled += count
    return owner, place


def _refuse_repeated(metadata: Path, hashes: NDArray[np.uint64]) -> None:
    values, counts = np.unique(hashes, return_counts=True)
    suspects = set(values[counts > 1].tolist())
    seen: set[str] = set()
    for piece in _pieces(metadata) if suspects else ():
        own = pd.util.hash_array(piece[ID].to_numpy(object), categorize=False)
        for name in piece[ID][[value in suspects for value in own.tolist()]]:
            if name in seen:
                raise InputError(f"{metadata}: isic_id {name} occurs more than once: keep one")
            seen.add(name)


def _spool(metadata: Path, owner: NDArray[np.int32], place: NDArray[np.int32], folder: Path) -> int:
    """Append every row to its shard's spool file; returns the number of shards."""
    start = 0
    for piece in _pieces(metadata):
        shard = place[owner[start : start + len(piece)]]
        start += len(piece)
        for number in np.unique(shard):
            table = pa.Table.from_pandas(piece[shard == number], schema=_ROWS, preserve_index=False)
            # A whole stream each time, so that no more than one spool is ever open.
            with (folder / str(number)).open("ab") as file, pa.ipc.new_stream(file, table.schema) as stream:
                stream.write_table(table)
    return int(place.max()) + 1


def _write(out: Store, spool: Path, number: int, tiles: TileStore | None, impute: bool) -> Shard:
    file, parts = spool / str(number), []
    with file.open("rb") as source:
        size = file.stat().st_size
        while source.tell() < size:
            parts.append(pa.ipc.open_stream(source).read_all())
    file.unlink()
    # Patient by patient, in the order of their appearance: neighbours in memory are compared with each other.
    rows = pa.concat_tables(parts).to_pandas()
    rows = rows.iloc[np.argsort(pd.factorize(rows[PATIENT])[0], kind="stable")].reset_index(drop=True)
    jpegs = [_jpeg(tiles, name, impute) for name in rows[ID]]
    data = pack_shard(rows, jpegs)
    shard = describe(f"part-{number:05d}.parquet", data, len(rows), rows[PATIENT].nunique())
    out.write(shard.name, data)
    return shard


def _jpeg(tiles: TileStore | None, name: str, impute: bool) -> bytes | None:
    if tiles is None or (impute and name not in tiles):
        return None
    return tiles.jpeg(name)
