"""Rows to score in chunks of whole patients: the protocol, and its implementation for a frame in
memory.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from isic.core.errors import InputError
from isic.core.schema import ID, PATIENT, TEST_COLUMNS
from isic.data.patient_chunks import pack_patients
from isic.data.rules import refuse_rows

#: Lesions of a chunk: half a minute of a T4 for one image model, so that a kill loses little and
#: the start of the tile loaders costs little.
CHUNK_ROWS = 16_384


class PatientChunks(Protocol):
    """Lesions in chunks of whole patients. The index of frames is the row: 0 to n - 1 over all."""

    @property
    def ids(self) -> pd.Series:
        """isic_id of every row, (n,)."""

    def __len__(self) -> int:
        """Number of chunks."""

    def chunk(self, index: int) -> pd.DataFrame:
        """The columns of test-metadata.csv of one chunk."""

    def chunk_ids(self, index: int) -> pd.Series:
        """The isic_ids of one chunk."""


class InMemoryRows:
    """`PatientChunks` of a frame in memory."""

    def __init__(self, rows: pd.DataFrame) -> None:
        _check_rows(rows)
        self._rows = rows.reset_index(drop=True)
        self.ids = self._rows[ID]
        self._blocks = patient_blocks(rows[PATIENT], CHUNK_ROWS)

    def __len__(self) -> int:
        return len(self._blocks)

    def chunk(self, index: int) -> pd.DataFrame:
        return self._rows.iloc[self._blocks[index]]

    def chunk_ids(self, index: int) -> pd.Series:
        return self.ids.iloc[self._blocks[index]]


def patient_blocks(patients: pd.Series, size: int) -> list[NDArray[np.intp]]:
    """Row positions of blocks of whole patients, each of at most `size` rows unless one patient
    alone has more.
    """
    codes, patient_ids = pd.factorize(patients, use_na_sentinel=False)
    block = pack_patients(np.bincount(codes, minlength=len(patient_ids)), size)[codes]
    return [np.flatnonzero(block == index) for index in np.unique(block)]


def _check_rows(rows: pd.DataFrame) -> None:
    """Raise InputError for an empty frame, missing columns, a missing or repeated id, a lesion
    without patient, or a measurement that is missing or infinite.
    """
    missing = [column for column in TEST_COLUMNS if column not in rows.columns]
    if missing:
        raise InputError(
            f"the metadata lacks {', '.join(missing[:5])}: give all columns of test-metadata.csv"
        )
    if rows.empty:
        raise InputError("the metadata has no rows: give at least one lesion")
    wrong = rows[ID].isna() | (rows[ID] == "") | rows[ID].duplicated()
    if wrong.any():
        repeated = rows[ID][wrong].iloc[0]
        raise InputError(
            f"isic_id {repeated} is missing or repeated in the metadata: keep one row of each"
        )
    # Lesions are compared with their patient's others: rows without patient_id would count as one
    # patient.
    orphaned = rows[PATIENT].isna() | (rows[PATIENT] == "")
    if orphaned.any():
        raise InputError(
            f"lesion {rows[ID][orphaned].iloc[0]}: patient_id is missing: give every lesion its"
            " patient"
        )
    refuse_rows(rows, "the metadata")
