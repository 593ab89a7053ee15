"""A metadata table of any length in pieces of whole patients, on disk: memory holds one piece and few bytes a lesion.

Two passes over the file: the first decides which piece each patient goes to, the second sorts its rows there.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from isic.core.errors import InputError
from isic.core.schema import ID, PATIENT, TARGET, TEST_COLUMNS, TEXT
from isic.data.tables import metadata_chunks, refuse_gaps

#: The columns of test-metadata.csv.
ROWS = pa.schema([(name, pa.string() if name in TEXT else pa.float64()) for name in TEST_COLUMNS])
_PLACE = "place"
_STORED = ROWS.append(pa.field(_PLACE, pa.int64()))
#: Rows of the table parsed at a time.
_CHUNK = 8_192


@dataclass(frozen=True)
class ChunkedTable:
    """The rows of a metadata table by pieces of `sizes` lesions in files of `folder`; `ids` of all in file order."""

    folder: Path
    ids: pd.Series
    sizes: tuple[int, ...]

    def __len__(self) -> int:
        """Pieces."""
        return len(self.sizes)

    def chunk(self, index: int) -> pd.DataFrame:
        """The 44 columns of test-metadata.csv of a piece's lesions; the index is their row in the file."""
        pa.default_memory_pool().release_unused()  # or Arrow keeps what earlier pieces took
        rows = _read(self.folder / str(index)).to_pandas()
        return rows.set_index(_PLACE).rename_axis(None)

    def chunk_ids(self, index: int) -> pd.Series:
        """Only the isic_ids of `chunk`."""
        rows = _read(self.folder / str(index), [ID, _PLACE]).to_pandas()
        return rows.set_index(_PLACE).rename_axis(None)[ID]


@contextmanager
def open_chunked(metadata: Path, limit: int) -> Iterator[ChunkedTable]:
    """`write_chunks` in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="isic-rows-") as folder:
        yield write_chunks(metadata, Path(folder), limit)


def write_chunks(metadata: Path, folder: Path, limit: int) -> ChunkedTable:
    """Sort the rows of a metadata CSV, official test or training form, into pieces below `folder`.

    A piece holds at most `limit` lesions, unless one patient alone has more; the order of the file stays within it.
    Raises InputError for anything wrong with the file: a lesion without patient, a repeated isic_id and a measurement
    that is missing or infinite included.
    """
    owner, place, ids = _plan(Path(metadata), limit)
    start = 0
    for chunk in _chunks(Path(metadata)):
        piece = place[owner[start : start + len(chunk)]]
        start += len(chunk)
        for number in np.unique(piece):
            mine = chunk[piece == number]
            table = pa.Table.from_pandas(mine.assign(**{_PLACE: mine.index}), schema=_STORED, preserve_index=False)
            # A whole stream each time, so that no more than one file is ever open.
            with (folder / str(number)).open("ab") as file, pa.ipc.new_stream(file, table.schema) as stream:
                stream.write_table(table)
    return ChunkedTable(folder, ids, tuple(np.bincount(place[owner]).tolist()))


def pack_patients(sizes: NDArray[np.int64], limit: int) -> NDArray[np.int32]:
    """Piece of each patient (p,), given their lesions (p,): in order, as many to a piece as `limit` lesions allow."""
    place, number, filled = np.empty(len(sizes), dtype=np.int32), 0, 0
    for patient, count in enumerate(sizes.tolist()):
        if filled and filled + count > limit:
            number, filled = number + 1, 0
        place[patient] = number
        filled += count
    return place


def _read(path: Path, columns: list[str] | None = None) -> pa.Table:
    """What was appended to a piece's file, memory-mapped."""
    parts = []
    with pa.memory_map(str(path)) as source:
        while source.tell() < source.size():
            part = pa.ipc.open_stream(source).read_all()
            parts.append(part.select(columns) if columns else part)
        return pa.concat_tables(parts)


def _chunks(metadata: Path) -> Iterator[pd.DataFrame]:
    for chunk in metadata_chunks(metadata, _has_target(metadata), _CHUNK):
        yield chunk[list(TEST_COLUMNS)]


def _has_target(metadata: Path) -> bool:
    try:
        with metadata.open(encoding="utf-8", errors="replace") as stream:
            return TARGET in stream.readline().strip().split(",")
    except FileNotFoundError as error:
        raise InputError(f"{metadata} not found: name a CSV with the columns of test-metadata.csv") from error


def _plan(metadata: Path, limit: int) -> tuple[NDArray[np.int32], NDArray[np.int32], pd.Series]:
    """Patient of each row (n,), by number in order of appearance, piece of each patient, and isic_id of each row."""
    known: dict[str, int] = {}
    owners, hashes, ids = [], [], []
    for chunk in _chunks(metadata):
        if chunk[PATIENT].isna().any():
            line = int(chunk.index[chunk[PATIENT].isna()][0]) + 2
            raise InputError(f"{metadata} line {line}: patient_id is missing: give every lesion its patient")
        refuse_gaps(chunk, str(metadata))
        owners.append(np.array([known.setdefault(name, len(known)) for name in chunk[PATIENT]], dtype=np.int32))
        hashes.append(pd.util.hash_array(chunk[ID].to_numpy(object), categorize=False))
        ids.append(chunk[ID].copy())
    if not known:  # of a table without rows the reader gives one empty piece
        raise InputError(f"{metadata} has a header and no rows: put the official file there")
    _refuse_repeated(metadata, np.concatenate(hashes))
    owner = np.concatenate(owners)
    return owner, pack_patients(np.bincount(owner), limit), pd.concat(ids)


def _refuse_repeated(metadata: Path, hashes: NDArray[np.uint64]) -> None:
    hashes.sort()
    suspects = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
    seen: set[str] = set()
    for chunk in _chunks(metadata) if suspects else ():
        own = pd.util.hash_array(chunk[ID].to_numpy(object), categorize=False)
        for name in chunk[ID][[value in suspects for value in own.tolist()]]:
            if name in seen:
                raise InputError(f"{metadata}: isic_id {name} occurs more than once: keep one")
            seen.add(name)
