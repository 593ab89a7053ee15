"""Shards: parquet files of whole patients, metadata beside JPEG bytes, and the manifest that names
them.

Features compare a lesion with the others of its patient, so a patient never spans two files, and a
worker needs one shard only. The manifest is written last: a folder without it is incomplete.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from isic.core.errors import InputError, redact
from isic.core.schema import ID, NUMERIC, PATIENT, TEST_COLUMNS, TEXT
from isic.data.patient_chunks import ROWS
from isic.data.tiles import MAX_JPEG_BYTES, decode
from isic.scale.store import Store

#: Parquet readers of a folder skip names that start with an underscore.
MANIFEST, _SHARDS_FORMAT = "_manifest.json", 1
JPEG = "jpeg"
_SCHEMA = ROWS.append(pa.field(JPEG, pa.binary()))


@dataclass(frozen=True)
class Shard:
    """One file: its name, lesions, patients, size and SHA-256."""

    name: str
    rows: int
    patients: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class ShardManifest:
    """All shards of a folder in order; `images` is true if any lesion has a tile."""

    shards: tuple[Shard, ...]
    images: bool

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    def to_json(self) -> bytes:
        content = {
            "format": _SHARDS_FORMAT,
            "images": self.images,
            "shards": [asdict(shard) for shard in self.shards],
        }
        return json.dumps(content, indent=1).encode()


def read_shard_manifest(store: Store) -> ShardManifest:
    """The manifest of a folder of shards. Raises InputError when it is missing or invalid."""
    if MANIFEST not in store.sizes():
        raise InputError(
            f"{store.where(MANIFEST)} not found: make shards with `isic shard`, "
            f"or `isic shard --index {redact(store.uri)}` for existing ones"
        )
    try:
        content = json.loads(store.read(MANIFEST))
        if content["format"] != _SHARDS_FORMAT:
            raise InputError(
                f"{store.where(MANIFEST)} has format {content['format']}, this version reads"
                f" {_SHARDS_FORMAT}"
            )
        manifest = ShardManifest(
            tuple(Shard(**entry) for entry in content["shards"]), bool(content["images"])
        )
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{store.where(MANIFEST)} is not a manifest of shards: make it again"
        ) from error
    _check(manifest, store)
    return manifest


def _check(manifest: ShardManifest, store: Store) -> None:
    names = [shard.name for shard in manifest.shards]
    if not names:
        raise InputError(f"{store.where(MANIFEST)} lists no shard: make it again")
    for name in names:
        # The name is used as a path, for reading and for the scores.
        if (
            "/" in name
            or "\\" in name
            or name.startswith((".", "_"))
            or not name.endswith(".parquet")
        ):
            raise InputError(
                f"{store.where(MANIFEST)} lists {name!r}: a shard is a .parquet file in the same"
                " folder"
            )
    if len(set(names)) < len(names):
        repeated = next(name for name in names if names.count(name) > 1)
        raise InputError(
            f"{store.where(MANIFEST)} lists {repeated} more than once: keep one entry of each shard"
        )


def pack_shard(rows: pd.DataFrame, jpegs: list[bytes | None]) -> bytes:
    """A shard file of these lesions; `jpegs` in the rows' order, None where there is no tile."""
    columns = [
        pa.array(rows[name], _SCHEMA.field(name).type, from_pandas=True) for name in TEST_COLUMNS
    ]
    table = pa.Table.from_arrays([*columns, pa.array(jpegs, pa.binary())], schema=_SCHEMA)
    sink = pa.BufferOutputStream()
    # JPEG bytes are already compressed.
    compression: Any = {name: "NONE" if name == JPEG else "ZSTD" for name in _SCHEMA.names}
    pq.write_table(
        table, sink, compression=compression, use_dictionary=[name for name in TEXT if name != ID]
    )
    return sink.getvalue().to_pybytes()


def shard_entry(name: str, data: bytes, rows: int, patients: int) -> Shard:
    """The manifest's entry for these bytes."""
    return Shard(name, rows, patients, len(data), hashlib.sha256(data).hexdigest())


class ShardContents:
    """Contents of a shard: `rows`, the 44 columns of test-metadata.csv, and tiles by isic_id."""

    def __init__(self, table: pa.Table, where: str) -> None:
        self.rows = _rows(table, where)
        column = table.column(JPEG).combine_chunks() if JPEG in table.column_names else None
        self.tiles = (
            None
            if column is None or column.null_count == len(column)
            else ShardTiles(where, self.rows, column)
        )


class ShardTiles:
    """The tiles of one shard, in memory, with the interface of `isic.data.tiles.TileStore`."""

    def __init__(self, where: str, rows: pd.DataFrame, column: Any) -> None:
        self.path = where
        present = np.asarray(column.is_valid())
        self._row = {str(rows[ID].iloc[row]): int(row) for row in np.flatnonzero(present)}
        self._column = column

    def __len__(self) -> int:
        return len(self._row)

    def __contains__(self, isic_id: str) -> bool:
        return isic_id in self._row

    def ids(self) -> list[str]:
        """All isic_ids that have a tile."""
        return list(self._row)

    def jpeg(self, isic_id: str) -> bytes:
        """The stored bytes of one tile. Raises InputError when it is missing or huge."""
        if isic_id not in self._row:
            raise InputError(
                f"{self.path} has no image for {isic_id}: add it or drop its metadata row"
            )
        data: bytes = self._column[self._row[isic_id]].as_py()
        if len(data) > MAX_JPEG_BYTES:
            raise InputError(
                f"{self.path}: tile {isic_id} holds {len(data)} bytes, at most {MAX_JPEG_BYTES} are"
                " read"
            )
        return data

    def image(self, isic_id: str) -> NDArray[np.uint8]:
        """One tile as uint8 RGB of shape (height, width, 3)."""
        return decode(self.jpeg(isic_id), isic_id)


def read_shard(store: Store, shard: Shard) -> ShardContents:
    """A shard's lesions, its bytes checked against the manifest.

    Raises InputError for a shard that is truncated or differs from the manifest, and for columns
    that are missing or of another type.
    """
    data = store.read(shard.name)
    if not _matches(data, shard):
        # An interrupted stream can end without an error: read the file once more.
        data = store.read(shard.name)
    if not _matches(data, shard):
        raise InputError(
            f"{store.where(shard.name)} is truncated or changed ({len(data):,} bytes,"
            f" {shard.bytes:,} in the manifest): make it again, or run `isic shard --index` if the"
            " change is intended"
        )
    return unpack_shard(data, store.where(shard.name))


def _matches(data: bytes, shard: Shard) -> bool:
    return len(data) == shard.bytes and hashlib.sha256(data).hexdigest() == shard.sha256


def unpack_shard(data: bytes, where: str) -> ShardContents:
    """The lesions in a shard's bytes. Raises InputError when the bytes are not a shard."""
    try:
        return ShardContents(pq.read_table(pa.BufferReader(data)), where)
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{where} cannot be read as parquet ({' '.join(str(error).split())[:120]})"
        ) from error


def _rows(table: pa.Table, where: str) -> pd.DataFrame:
    missing = [name for name in TEST_COLUMNS if name not in table.column_names]
    if missing:
        raise InputError(
            f"{where} lacks column `{missing[0]}`: a shard has all columns of test-metadata.csv"
        )
    rows = table.select(list(TEST_COLUMNS)).to_pandas()
    for name in TEST_COLUMNS:
        numeric = rows[name].dtype.kind in "fiu" or not rows[name].notna().any()
        if name in NUMERIC and not numeric:
            raise InputError(f"{where}: column `{name}` is not numeric")
        rows[name] = rows[name].astype(np.float64 if name in NUMERIC else "str")
    if rows[PATIENT].isna().any():
        raise InputError(f"{where}: a lesion has no patient_id: give every lesion its patient")
    return rows
