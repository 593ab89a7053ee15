"""Check before scoring that every patient is in one shard only and every lesion occurs once.

Tasks read two columns of each shard and send hashes, by range, to tasks that search for equal ones;
no machine holds all of them. Equal hashes are compared by name before an error is raised.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from isic.core.errors import InputError
from isic.core.schema import ID, PATIENT
from isic.scale.shards import Shard
from isic.scale.store import Store

#: Lesions in memory of a searching task, 12 bytes each; shards of a reading task.
_RANGE_LESIONS, _TASK_SHARDS = 20_000_000, 16


class Hashes(NamedTuple):
    """Hashes of one range and the index of the shard of each: lesions (n,), patients (m,)."""

    lesions: NDArray[np.uint64]
    lesion_shard: NDArray[np.int32]
    patients: NDArray[np.uint64]
    patient_shard: NDArray[np.int32]


def check_unique(ray: Any, source: Store, shards: tuple[Shard, ...]) -> None:
    """Raise InputError naming a patient or lesion that occurs in two shards, and the two shards.

    A shard that cannot be read is skipped: scoring it raises the error.
    """
    ranges = 1 + sum(shard.rows for shard in shards) // _RANGE_LESIONS
    read = ray.remote(num_cpus=1, num_returns=ranges, max_retries=5)(hashes_of)
    search = ray.remote(num_cpus=1, max_retries=5)(_equal_hashes)
    parts = [
        read.remote(source, list(enumerate(shards))[start : start + _TASK_SHARDS], ranges)
        for start in range(0, len(shards), _TASK_SHARDS)
    ]
    by_range = zip(*parts, strict=True) if ranges > 1 else [parts]
    for pairs in ray.get([search.remote(*hashes) for hashes in by_range]):
        for kind, first, second in pairs:
            _raise_duplicate(source, kind, shards[first].name, shards[second].name)


def hashes_of(source: Store, shards: list[tuple[int, Shard]], ranges: int) -> Any:
    """Hashes of (index, shard) pairs: a tuple of one `Hashes` per range, or the `Hashes` if there
    is one range.
    """
    columns: list[list[Any]] = [[], [], [], []]
    for index, shard in shards:
        try:
            names = source.read_with(shard.name, _names)
        except (InputError, pa.ArrowException):
            continue
        for slot, (column, values) in enumerate(
            ((ID, names[ID]), (PATIENT, names[PATIENT].drop_duplicates()))
        ):
            hashes = pd.util.hash_array(
                values.to_numpy(object), hash_key=f"{column:0<16}"[:16], categorize=False
            )
            columns[2 * slot].append(hashes)
            columns[2 * slot + 1].append(np.full(len(hashes), index, dtype=np.int32))
    dtypes = (np.uint64, np.int32, np.uint64, np.int32)
    joined = [
        np.concatenate([np.empty(0, dtype), *parts]).astype(dtype)
        for dtype, parts in zip(dtypes, columns, strict=True)
    ]
    if ranges == 1:
        return Hashes(*joined)
    return tuple(_select_range(joined, remainder, ranges) for remainder in range(ranges))


def _names(file: Any) -> pd.DataFrame:
    return pq.read_table(file, columns=[ID, PATIENT]).to_pandas()


def _select_range(joined: list[Any], remainder: int, ranges: int) -> Hashes:
    lesions, patients = (joined[column] % np.uint64(ranges) == remainder for column in (0, 2))
    return Hashes(joined[0][lesions], joined[1][lesions], joined[2][patients], joined[3][patients])


def _equal_hashes(*parts: Hashes) -> list[tuple[str, int, int]]:
    """Column and two shard indices for every pair of equal hashes of one range, at most 100 pairs
    of each column.
    """
    pairs = []
    for column, field in ((PATIENT, 2), (ID, 0)):
        values = np.concatenate([part[field] for part in parts])
        shard = np.concatenate([part[field + 1] for part in parts])
        order = np.argsort(values, kind="stable")
        equal = np.flatnonzero(values[order][1:] == values[order][:-1])[:100]
        pairs += [(column, int(shard[order[i]]), int(shard[order[i + 1]])) for i in equal]
    return pairs


def _raise_duplicate(source: Store, column: str, first: str, second: str) -> None:
    """Raise if the two shards share a name; equal hashes alone may be a collision."""
    names = [source.read_with(name, _names)[column] for name in (first, second)]
    if first == second:
        shared = sorted(set(names[0][names[0].duplicated()])) if column == ID else []
    else:
        shared = sorted(set(names[0]) & set(names[1]))
    if not shared:
        return
    kind = "patient" if column == PATIENT else "lesion"
    where = (
        f"twice in {source.where(first)}"
        if first == second
        else f"in {source.where(first)} and in {second}"
    )
    rule = (
        "all lesions of a patient belong in one shard"
        if column == PATIENT
        else "a lesion may occur once only"
    )
    raise InputError(
        f"{kind} {shared[0]} is {where} ({len(shared)} such): {rule}; nothing was scored"
    )
