"""Which pictures may train a network: none of a patient on whom it is scored.

ISIC 2020 and SLICE-3D share patients, so a network trained on the one has seen people of the other.
Pictures belong to one person when they share a patient, a lesion or an id, or are near-duplicates,
also through further pictures.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from isic.core.errors import InputError
from isic.core.io import read_parquet
from isic.core.schema import ID, PATIENT
from isic.data.archive.duplicates import WORDS, near_pairs

#: Files of an imported source.
PICTURES, DIAGNOSES = "pictures.hdf5", "diagnoses.parquet"
#: Columns of its rows beside those of the diagnosis table. `hash`: 32 bytes. `shared`: patients of
#: the challenge who are in the picture, separated by spaces. `in_test`: one of them is in its test
#: set.
LINKS = ("source", "hash", "shared", "in_test")


def read_sources(folders: Sequence[Path]) -> pd.DataFrame:
    """Rows of the imported sources, one after the other, with the `folder` of each.

    Raises InputError when one was not imported.
    """
    frames = []
    for folder in folders:
        if not (folder / DIAGNOSES).is_file():
            raise InputError(
                f"{folder} has no {DIAGNOSES}: run `dvc repro`, which imports the source"
            )
        frames.append(read_parquet(folder / DIAGNOSES).assign(folder=str(folder)))
    return pd.concat(frames, ignore_index=True)


def stored_hashes(rows: pd.DataFrame) -> NDArray[np.uint64]:
    """Column `hash` as (n, 4)."""
    return np.frombuffer(b"".join(rows["hash"]), dtype=np.uint64).reshape(-1, WORDS)


def may_train(
    rows: pd.DataFrame, training: Iterable[str], held_out: Iterable[str]
) -> NDArray[np.bool_]:
    """Whether each row (n,) may train a network that is trained on the patients `training` and
    scored on `held_out` or the test set.
    """
    allowed = set(training) - set(held_out)
    banned = [
        in_test or not set(shared.split()) <= allowed
        for shared, in_test in zip(rows["shared"], rows["in_test"], strict=True)
    ]
    person = persons(rows)
    return ~np.isin(person, person[np.array(banned, dtype=bool)])


def persons(rows: pd.DataFrame) -> NDArray[np.int64]:
    """A number (n,) for each row, equal for rows of one person."""
    edges = [near_pairs(hashes := stored_hashes(rows), hashes)]
    for column in (ID, PATIENT, "lesion_id"):
        # Each row is joined to the first one of its value.
        known = np.flatnonzero(rows[column] != "")
        codes, _ = pd.factorize(rows[column].iloc[known])
        first = np.full(codes.max(initial=-1) + 1, -1, dtype=np.int64)
        first[codes[::-1]] = known[::-1]
        edges.append(np.column_stack([known, first[codes]]))
    ends = np.concatenate(edges)
    graph = coo_matrix((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(len(rows),) * 2)
    return connected_components(graph, directed=False)[1].astype(np.int64)
