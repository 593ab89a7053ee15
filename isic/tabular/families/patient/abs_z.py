"""|z| within a group and the number of |z| > 2, as in the second-place solution."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from isic.core.schema import PATIENT
from isic.tabular.kernels import zscore
from isic.tabular.names import MEANING
from isic.tabular.registry import Family, Feature
from isic.tabular.relative import CORE, per_row

#: Sd beyond which a measurement counts as an outlier.
_FAR = 2.0


def _family(name: str, meaning: str, keys: Sequence[str], over: str, centre: str) -> Family:
    """|z| of the core measurements over patient × `keys`, their count above 2, mean and maximum."""
    features = (
        *(
            Feature(
                f"{name}__{v}",
                f"abs({v} - mean({v})) / (sd({v}) + 1e-5) over {over}",
                f"sd away from {centre}: {MEANING[v]}",
            )
            for v in CORE
        ),
        Feature(
            f"{name}_far",
            f"count of |z| > {_FAR:.0f} over {over}",
            f"number of {len(CORE)} measurements over 2 sd away from {centre}",
        ),
        Feature(
            f"{name}_mean",
            f"mean of |z| over {over}",
            f"mean distance from {centre} over {len(CORE)} measurements, sd",
        ),
        Feature(
            f"{name}_max",
            f"max of |z| over {over}",
            f"largest distance from {centre} over {len(CORE)} measurements, sd",
        ),
    )

    def build(frame: pd.DataFrame) -> pd.DataFrame:
        columns = {v: np.abs(z) for v, z in per_row(frame, (PATIENT, *keys), CORE, zscore).items()}
        far, total, largest = (np.zeros(len(frame), dtype=np.float32) for _ in range(3))
        for z in columns.values():
            far += z > _FAR
            total += z
            np.maximum(largest, z, out=largest)
        summary = {
            f"{name}_far": far,
            f"{name}_mean": total / np.float32(len(CORE)),
            f"{name}_max": largest,
        }
        return pd.DataFrame(
            {**{f"{name}__{v}": z for v, z in columns.items()}, **summary}, copy=False
        )

    return Family(name, meaning, features, build, relative=True)


FAMILIES = (
    _family("patient_abs_z", "|z| within the patient", (), "patient", "the patient's mean"),
    _family(
        "location_abs_z",
        "|z| within patient and location",
        ("tbp_lv_location",),
        "patient × tbp_lv_location",
        "the mean of the patient's lesions of the same location",
    ),
)
