"""Is every patient in one shard only, and every lesion once? Asked before anything is scored, of any number of shards.

Tasks read two columns of each shard and send hashes, by range, to tasks that look for equal ones; no machine ever holds
them all. Equal hashes are checked by name before anybody is accused.
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

#: Lesions a looking task has in memory, 12 bytes each; and shards a reading task looks at.
_RANGE, _SHARDS = 20_000_000, 16


class Hashes(NamedTuple):
    """Hashes of one range and the shard (by number) each comes from: lesions (n,), patients (m,)."""

    lesions: NDArray[np.uint64]
    lesion_shard: NDArray[np.int32]
    patients: NDArray[np.uint64]
    patient_shard: NDArray[np.int32]


def check(ray: Any, source: Store, shards: tuple[Shard, ...]) -> None:
    """Raise InputError naming a patient or lesion that occurs in two shards, and both.

    A shard that cannot be read is passed over: scoring it says so.
    """
    ranges = 1 + sum(shard.rows for shard in shards) // _RANGE
    read = ray.remote(num_cpus=1, num_returns=ranges, max_retries=5)(hashes_of)
    look = ray.remote(num_cpus=1, max_retries=5)(suspects)
    parts = [
        read.remote(source, list(enumerate(shards))[begin : begin + _SHARDS], ranges)
        for begin in range(0, len(shards), _SHARDS)
    ]
    by_range = zip(*parts, strict=True) if ranges > 1 else [parts]
    for pairs in ray.get([look.remote(*one) for one in by_range]):
        for kind, first, second in pairs:
            _raise_duplicate(source, kind, shards[first].name, shards[second].name)


def hashes_of(source: Store, shards: list[tuple[int, Shard]], ranges: int) -> Any:
    """Hashes of numbered shards, one `Hashes` per range (itself if there is one range)."""
    columns: list[list[Any]] = [[], [], [], []]
    for number, shard in shards:
        try:
            names = source.read_with(shard.name, _names)
        except (InputError, pa.ArrowException):
            continue
        for place, (column, values) in enumerate(((ID, names[ID]), (PATIENT, names[PATIENT].drop_duplicates()))):
            own = pd.util.hash_array(values.to_numpy(object), hash_key=f"{column:0<16}"[:16], categorize=False)
            columns[2 * place].append(own)
            columns[2 * place + 1].append(np.full(len(own), number, dtype=np.int32))
    kinds = (np.uint64, np.int32, np.uint64, np.int32)
    joined = [
        np.concatenate([np.empty(0, kind), *parts]).astype(kind) for kind, parts in zip(kinds, columns, strict=True)
    ]
    if ranges == 1:
        return Hashes(*joined)
    return tuple(_range(joined, number, ranges) for number in range(ranges))


def _names(file: Any) -> pd.DataFrame:
    return pq.read_table(file, columns=[ID, PATIENT]).to_pandas()


def _range(joined: list[Any], number: int, ranges: int) -> Hashes:
    mine = [joined[place] % np.uint64(ranges) == number for place in (0, 2)]
    return Hashes(joined[0][mine[0]], joined[1][mine[0]], joined[2][mine[1]], joined[3][mine[1]])


def suspects(*parts: Hashes) -> list[tuple[str, int, int]]:
    """Of one range: column and two shards for every pair of neighbouring equal hashes, at most 100 of each column."""
    found = []
    for column, place in ((PATIENT, 2), (ID, 0)):
        values = np.concatenate([part[place] for part in parts])
        shard = np.concatenate([part[place + 1] for part in parts])
        order = np.argsort(values, kind="stable")
        same = np.flatnonzero(values[order][1:] == values[order][:-1])[:100]
        found += [(column, int(shard[order[at]]), int(shard[order[at + 1]])) for at in same]
    return found


def _raise_duplicate(source: Store, column: str, first: str, second: str) -> None:
    """Raise if the two shards do share a name; two names may share a hash."""
    names = [source.read_with(name, _names)[column] for name in (first, second)]
    if first == second:
        shared = sorted(set(names[0][names[0].duplicated()])) if column == ID else []
    else:
        shared = sorted(set(names[0]) & set(names[1]))
    if not shared:
        return
    what = "patient" if column == PATIENT else "lesion"
    where = f"twice in {source.where(first)}" if first == second else f"in {source.where(first)} and in {second}"
    rule = "all lesions of a patient belong in one shard" if column == PATIENT else "a lesion is scored once"
    raise InputError(f"{what} {shared[0]} is {where} ({len(shared)} such): {rule}; nothing was scored")
