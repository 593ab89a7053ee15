"""Groups of lesions that are compared with each other: the rows of each patient, or of each patient
and site.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from isic.tabular.canonical import codes


@dataclass(frozen=True)
class Groups:
    """A partition of rows, in the form that the kernels read.

    Group g holds rows[starts[g]:starts[g + 1]]; within a group rows keep their order.
    """

    rows: NDArray[np.int64]
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, frame: pd.DataFrame, columns: Sequence[str]) -> Groups:
        """Group a canonical frame by `columns`; a missing value is a group of its own."""
        label = codes(frame, columns)
        rows = np.argsort(label, kind="stable")
        changes = np.flatnonzero(np.diff(label[rows])) + 1
        starts = np.concatenate([[0], changes, [len(rows)]]) if len(rows) else np.zeros(1)
        return cls(rows.astype(np.int64), starts.astype(np.int64))

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Rows per group."""
        return np.diff(self.starts)

    def broadcast(self, per_group: NDArray[np.float64]) -> NDArray[np.float64]:
        """One value per row (n,) from one value per group (g,)."""
        out = np.empty(len(self.rows), dtype=np.float64)
        out[self.rows] = np.repeat(per_group, self.sizes)
        return out

    def sums(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum of `values` (n,) in each group, missing ones as 0."""
        if not len(self.rows):
            return np.zeros(0)
        totals: NDArray[np.float64] = np.add.reduceat(
            np.nan_to_num(values, nan=0.0)[self.rows], self.starts[:-1]
        )
        return totals
