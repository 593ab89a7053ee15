"""Write the official files as shards, streaming: one chunk of the table and its tiles at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from isic.core.errors import InputError, redact
from isic.core.schema import ID, PATIENT
from isic.data.image_files import open_images
from isic.data.patient_chunks import open_chunked
from isic.data.tiles import TileStore
from isic.scale.shards import MANIFEST, Shard, ShardManifest, pack_shard, shard_entry, unpack_shard
from isic.scale.store import Store


def make_shards(
    metadata: Path,
    images: Path | None,
    out: Store,
    rows: int = 20_000,
    megabytes: float = 64,
    impute: bool = False,
) -> ShardManifest:
    """Write the lesions of a metadata table and its tiles (`open_images`) as shards; returns the
    manifest.

    A shard holds at most `rows` lesions or about `megabytes`, whichever is less, unless one patient
    alone has more. A lesion without a tile is an error, or with `impute` is written without one.
    The same files give the same bytes. Raises InputError for invalid files, and when `out` already
    holds shards.
    """
    if rows < 1 or not 0 < megabytes < np.inf:
        raise InputError(f"shards of {rows} rows or {megabytes} MB: give positive numbers")
    if MANIFEST in out.sizes():
        raise InputError(
            f"{redact(out.uri)} already holds shards: name another folder, or remove it first"
        )
    tiles = None if images is None else open_images(images)
    if tiles is not None:
        rows = max(1, min(rows, int(megabytes * 1e6 / _mean_bytes(tiles))))
    with open_chunked(metadata, rows) as chunks:
        shards = tuple(
            _write(out, chunks.chunk(index), index, tiles, impute) for index in range(len(chunks))
        )
    manifest = ShardManifest(shards, tiles is not None)
    out.write(MANIFEST, manifest.to_json())
    return manifest


def _mean_bytes(tiles: TileStore) -> float:
    """About the size of a tile: reading each tile's size would take a pass over the file."""
    if tiles.path.is_dir():
        some = tiles.ids()[:: max(1, len(tiles) // 100)]
        return sum(len(tiles.jpeg(isic_id)) for isic_id in some) / len(some)
    return tiles.path.stat().st_size / max(len(tiles), 1)


def index_shards(store: Store) -> ShardManifest:
    """Write the manifest of existing shards, reading each. Raises InputError for a file that is not
    a shard.
    """
    names = sorted(
        name
        for name in store.sizes()
        if name.endswith(".parquet") and not name.startswith((".", "_"))
    )
    if not names:
        raise InputError(
            f"{redact(store.uri)} holds no .parquet file: name the folder of the shards"
        )
    shards, images = [], False
    for name in names:
        data = store.read(name)
        contents = unpack_shard(data, store.where(name))
        images = images or contents.tiles is not None
        shards.append(shard_entry(name, data, len(contents.rows), contents.rows[PATIENT].nunique()))
    manifest = ShardManifest(tuple(shards), images)
    store.write(MANIFEST, manifest.to_json())
    return manifest


def _write(
    out: Store, rows: pd.DataFrame, index: int, tiles: TileStore | None, impute: bool
) -> Shard:
    # Lesions of one patient are compared with each other: keep them adjacent, patients in order of
    # appearance.
    rows = rows.iloc[np.argsort(pd.factorize(rows[PATIENT])[0], kind="stable")].reset_index(
        drop=True
    )
    jpegs = [_jpeg(tiles, name, impute) for name in rows[ID]]
    data = pack_shard(rows, jpegs)
    shard = shard_entry(f"part-{index:05d}.parquet", data, len(rows), rows[PATIENT].nunique())
    out.write(shard.name, data)
    return shard


def _jpeg(tiles: TileStore | None, name: str, impute: bool) -> bytes | None:
    if tiles is None or (impute and name not in tiles):
        return None
    return tiles.jpeg(name)
