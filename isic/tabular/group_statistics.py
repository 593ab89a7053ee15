"""Group statistics joined back to the lesions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from isic.core.schema import PATIENT
from isic.tabular.kernels import SUMMARY, summary
from isic.tabular.names import MEANING
from isic.tabular.parallel import each
from isic.tabular.patient_groups import Groups
from isic.tabular.registry import Family, Feature
from isic.tabular.relative import column

#: One or two measurements per sign; the statistics of the others say the same.
LEVELS: tuple[str, ...] = (
    "H",
    "Hext",
    "B",
    "L",
    "Lext",
    "diam",
    "areaMM2",
    "deltaB",
    "deltaLBnorm",
    "stdLExt",
    "norm_border",
    "norm_color",
    "nevi_confidence",
)


def level_family(name: str, meaning: str, keys: Sequence[str], over: str, statistics: Sequence[str]) -> Family:
    """The `statistics` (names of `kernels.SUMMARY`) of LEVELS over the patient and `keys`."""
    features = tuple(
        Feature(f"{name}__{v}_{statistic}", f"{statistic}({v}) over {over}", f"{statistic} over {over}: {MEANING[v]}")
        for v in LEVELS
        for statistic in statistics
    )

    def build(frame: pd.DataFrame) -> pd.DataFrame:
        groups = Groups.of(frame, (PATIENT, *keys))

        def one(v: str) -> dict[str, NDArray[np.float32]]:
            table = np.empty((len(groups.sizes), len(SUMMARY)))
            summary(frame[column(v)].to_numpy(), groups.rows, groups.starts, table)
            return {
                f"{name}__{v}_{statistic}": groups.spread(table[:, SUMMARY.index(statistic)]).astype(np.float32)
                for statistic in statistics
            }

        columns: dict[str, NDArray[np.float32]] = {}
        for part in each(one, LEVELS):
            columns |= part
        return pd.DataFrame(columns, copy=False)

    return Family(name, meaning, features, build, relative=True)
