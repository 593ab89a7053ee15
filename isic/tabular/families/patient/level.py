"""Statistics of a lesion's group: the level that the relative features subtract."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from isic.core.schema import PATIENT
from isic.tabular.kernels import SUMMARY, summarise
from isic.tabular.names import MEANING
from isic.tabular.parallel import parallel_map
from isic.tabular.patient_groups import Groups
from isic.tabular.registry import Family, Feature
from isic.tabular.relative import SUMMARISED, official_column

#: Those of `kernels.SUMMARY` except the count.
_STATISTICS = ("mean", "sd", "min", "max", "sum", "median", "skew")


def _family(name: str, meaning: str, keys: Sequence[str], over: str) -> Family:
    """Statistics of SUMMARISED over the patient and `keys`."""
    features = tuple(
        Feature(
            f"{name}__{v}_{statistic}",
            f"{statistic}({v}) over {over}",
            f"{statistic} over {over}: {MEANING[v]}",
        )
        for v in SUMMARISED
        for statistic in _STATISTICS
    )

    def build(frame: pd.DataFrame) -> pd.DataFrame:
        groups = Groups.of(frame, (PATIENT, *keys))

        def columns_of(v: str) -> dict[str, NDArray[np.float32]]:
            table = np.empty((len(groups.sizes), len(SUMMARY)))
            summarise(frame[official_column(v)].to_numpy(), groups.rows, groups.starts, table)
            return {
                f"{name}__{v}_{statistic}": (
                    groups.broadcast(table[:, SUMMARY.index(statistic)]).astype(np.float32)
                )
                for statistic in _STATISTICS
            }

        columns: dict[str, NDArray[np.float32]] = {}
        for part in parallel_map(columns_of, SUMMARISED):
            columns |= part
        return pd.DataFrame(columns, copy=False)

    return Family(name, meaning, features, build, relative=True)


FAMILIES = (
    _family("patient_level", "Statistics of all lesions of the patient", (), "the patient"),
    _family(
        "location_level",
        "Statistics of the patient's lesions of the same location",
        ("tbp_lv_location",),
        "patient × tbp_lv_location",
    ),
)
