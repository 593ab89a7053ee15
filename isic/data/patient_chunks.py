"""A metadata table of any length in chunks of whole patients, on disk: memory holds one chunk and a
few bytes per lesion.

The first pass over the file assigns patients to chunks; the second writes the rows to the chunks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from isic.core.errors import InputError
from isic.core.io import scratch_dir
from isic.core.schema import ID, PATIENT, TEST_COLUMNS, TEXT
from isic.data.rules import refuse_rows
from isic.data.tables import metadata_chunks

#: The columns of test-metadata.csv.
ROWS = pa.schema([(name, pa.string() if name in TEXT else pa.float64()) for name in TEST_COLUMNS])
_ROW = "row"
_STORED = ROWS.append(pa.field(_ROW, pa.int64()))
#: Rows of the table parsed at a time.
_PARSED_ROWS = 8_192


@dataclass(frozen=True)
class ChunkedTable:
    """Chunks of a metadata table: `sizes` lesions each, one file of `folder` each; `ids` (n,) in
    file order.
    """

    folder: Path
    ids: pd.Series
    sizes: tuple[int, ...]

    def __len__(self) -> int:
        """Number of chunks."""
        return len(self.sizes)

    def chunk(self, index: int) -> pd.DataFrame:
        """The 44 columns of test-metadata.csv of a chunk's lesions; the index is their row in the
        file.
        """
        pa.default_memory_pool().release_unused()  # else Arrow keeps the memory of earlier chunks
        rows = _read(self.folder / str(index)).to_pandas()
        return rows.set_index(_ROW).rename_axis(None)

    def chunk_ids(self, index: int) -> pd.Series:
        """The isic_ids of a chunk."""
        rows = _read(self.folder / str(index), [ID, _ROW]).to_pandas()
        return rows.set_index(_ROW).rename_axis(None)[ID]


@contextmanager
def open_chunked(metadata: Path, limit: int) -> Iterator[ChunkedTable]:
    """`write_chunks` in a temporary folder, removed at exit."""
    with scratch_dir() as folder:
        yield write_chunks(metadata, folder, limit)


def write_chunks(metadata: Path, folder: Path, limit: int) -> ChunkedTable:
    """Sort the rows of a metadata CSV, official test or training form, into chunks below `folder`.

    A chunk holds at most `limit` lesions, unless one patient has more, in the order of the file.
    Raises InputError for an invalid file, a lesion without patient, a repeated isic_id, and a
    measurement that is missing or infinite.
    """
    owner, chunk_of, ids = _plan(Path(metadata), limit)
    start = 0
    for rows in metadata_chunks(Path(metadata), _PARSED_ROWS):
        target = chunk_of[owner[start : start + len(rows)]]
        start += len(rows)
        for index in np.unique(target):
            part = rows[target == index]
            table = pa.Table.from_pandas(
                part.assign(**{_ROW: part.index}), schema=_STORED, preserve_index=False
            )
            # Each time a complete stream, so that only one file is open.
            with (
                (folder / str(index)).open("ab") as file,
                pa.ipc.new_stream(file, table.schema) as stream,
            ):
                stream.write_table(table)
    return ChunkedTable(folder, ids, tuple(np.bincount(chunk_of[owner]).tolist()))


def pack_patients(sizes: NDArray[np.int64], limit: int) -> NDArray[np.int32]:
    """Chunk of each patient (p,) by their numbers of lesions (p,): in order, each filled up to
    `limit` lesions.
    """
    chunk_of, index, filled = np.empty(len(sizes), dtype=np.int32), 0, 0
    for patient, count in enumerate(sizes.tolist()):
        if filled and filled + count > limit:
            index, filled = index + 1, 0
        chunk_of[patient] = index
        filled += count
    return chunk_of


def _read(path: Path, columns: list[str] | None = None) -> pa.Table:
    """All streams of a chunk's file, memory-mapped."""
    parts = []
    with pa.memory_map(str(path)) as source:
        while source.tell() < source.size():
            part = pa.ipc.open_stream(source).read_all()
            parts.append(part.select(columns) if columns else part)
        return pa.concat_tables(parts)


def _plan(metadata: Path, limit: int) -> tuple[NDArray[np.int32], NDArray[np.int32], pd.Series]:
    """Patient of each row (n,), numbered by appearance; chunk of each patient (p,); isic_id of each
    row (n,).
    """
    known: dict[str, int] = {}
    owners, hashes, ids = [], [], []
    for chunk in metadata_chunks(metadata, _PARSED_ROWS):
        if chunk[PATIENT].isna().any():
            line = int(chunk.index[chunk[PATIENT].isna()][0]) + 2
            raise InputError(
                f"{metadata} line {line}: patient_id is missing: give every lesion its patient"
            )
        refuse_rows(chunk, str(metadata))
        owners.append(
            np.array(
                [known.setdefault(name, len(known)) for name in chunk[PATIENT]], dtype=np.int32
            )
        )
        hashes.append(pd.util.hash_array(chunk[ID].to_numpy(object), categorize=False))
        ids.append(chunk[ID].copy())
    if not known:  # the reader gives one empty frame for a table without rows
        raise InputError(f"{metadata} has a header and no rows: put the official file there")
    _refuse_repeated(metadata, np.concatenate(hashes))
    owner = np.concatenate(owners)
    return owner, pack_patients(np.bincount(owner), limit), pd.concat(ids)


def _refuse_repeated(metadata: Path, hashes: NDArray[np.uint64]) -> None:
    hashes.sort()
    suspects = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
    seen: set[str] = set()
    for chunk in metadata_chunks(metadata, _PARSED_ROWS) if suspects else ():
        own = pd.util.hash_array(chunk[ID].to_numpy(object), categorize=False)
        for name in chunk[ID][[value in suspects for value in own.tolist()]]:
            if name in seen:
                raise InputError(f"{metadata}: isic_id {name} occurs more than once: keep one")
            seen.add(name)
