"""Number of lesions of a patient, in all and by part of the body."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from isic.core.schema import PATIENT
from isic.tabular.kernels import upper_rank
from isic.tabular.patient_groups import Groups
from isic.tabular.registry import Family, Feature

_KEYS = {
    "site": "anatom_site_general",
    "location": "tbp_lv_location",
    "location_simple": "tbp_lv_location_simple",
    "tile": "tbp_tile_type",
}
_SITES = ("anterior torso", "head/neck", "lower extremity", "posterior torso", "upper extremity")
_PARTS = (
    "Head & Neck",
    "Left Arm",
    "Left Leg",
    "Right Arm",
    "Right Leg",
    "Torso Back",
    "Torso Front",
    "Unknown",
)
#: The other locations are parts of the body themselves: some lesions have no finer location.
_LOCATIONS = (
    "Left Arm",
    "Left Arm - Lower",
    "Left Arm - Upper",
    "Left Leg",
    "Left Leg - Lower",
    "Left Leg - Upper",
    "Right Arm",
    "Right Arm - Lower",
    "Right Arm - Upper",
    "Right Leg",
    "Right Leg - Lower",
    "Right Leg - Upper",
    "Torso Back",
    "Torso Back Bottom Third",
    "Torso Back Middle Third",
    "Torso Back Top Third",
    "Torso Front",
    "Torso Front Bottom Half",
    "Torso Front Top Half",
)


def build(frame: pd.DataFrame) -> pd.DataFrame:
    """Counts, shares and total areas over the patient and over parts of the patient."""
    count = _count(frame, ())
    area = _total(frame, ())
    columns = {"patient_count": count, "patient_area": area}
    for name, key in _KEYS.items():
        columns[f"patient_{name}_count"] = _count(frame, (key,))
        columns[f"patient_{name}_share"] = columns[f"patient_{name}_count"] / count
    columns["patient_site_area"] = _total(frame, (_KEYS["site"],))
    columns["patient_area_share"] = frame["tbp_lv_areaMM2"].to_numpy() / (area + 1e-5)
    columns |= {_pivot_name("site", site): _members(frame, _KEYS["site"], site) for site in _SITES}
    columns |= {
        _pivot_name("part", part): _members(frame, _KEYS["location_simple"], part)
        for part in _PARTS
    }
    columns |= {
        _pivot_name("location", level): _members(frame, _KEYS["location"], level)
        for level in _LOCATIONS
    }
    columns["patient_size_rank"] = _smaller(frame)
    return pd.DataFrame(
        {name: values.astype(np.float32) for name, values in columns.items()}, copy=False
    )


def _count(frame: pd.DataFrame, keys: Sequence[str]) -> NDArray[np.float64]:
    groups = Groups.of(frame, (PATIENT, *keys))
    return groups.broadcast(groups.sizes.astype(np.float64))


def _total(frame: pd.DataFrame, keys: Sequence[str]) -> NDArray[np.float64]:
    groups = Groups.of(frame, (PATIENT, *keys))
    return groups.broadcast(groups.sums(frame["tbp_lv_areaMM2"].to_numpy()))


def _members(frame: pd.DataFrame, key: str, level: str) -> NDArray[np.float64]:
    """Lesions of the patient whose `key` is `level`."""
    groups = Groups.of(frame, (PATIENT,))
    return groups.broadcast(groups.sums((frame[key] == level).to_numpy(dtype=np.float64)))


def _smaller(frame: pd.DataFrame) -> NDArray[np.float64]:
    """(rank of the diameter - 1) / n within the patient."""
    groups, diameter = Groups.of(frame, (PATIENT,)), frame["clin_size_long_diam_mm"].to_numpy()
    share = np.empty(len(frame))
    upper_rank(diameter, groups.rows, groups.starts, share)
    return share - 1 / np.maximum(
        groups.broadcast(groups.sums(np.isfinite(diameter).astype(np.float64))), 1
    )


def _pivot_name(kind: str, level: str) -> str:
    return f"patient_count_{kind}_{re.sub('[^a-z]+', '_', level.lower())}"


FAMILY = Family(
    name="patient_counts",
    meaning="Numbers and total area of the patient's lesions",
    features=(
        Feature("patient_count", "n over the patient", "lesions of the patient"),
        Feature(
            "patient_area",
            "sum(areaMM2) over the patient",
            "total area of the patient's lesions, mm²",
        ),
        *(
            Feature(*texts)
            for name, key in _KEYS.items()
            for texts in (
                (
                    f"patient_{name}_count",
                    f"n over patient × {key}",
                    f"lesions of the patient with the same {key}",
                ),
                (
                    f"patient_{name}_share",
                    f"n over patient × {key} / n over the patient",
                    f"share of the patient's lesions with the same {key}, 0 to 1",
                ),
            )
        ),
        Feature(
            "patient_site_area",
            "sum(areaMM2) over patient × anatom_site_general",
            "total area at the same site, mm²",
        ),
        Feature(
            "patient_area_share",
            "areaMM2 / (sum(areaMM2) + 1e-5) over the patient",
            "share of the patient's total area, 0 to 1",
        ),
        *(
            Feature(
                _pivot_name("site", site),
                f"count(anatom_site_general = {site}) over the patient",
                f"lesions of the patient at {site}",
            )
            for site in _SITES
        ),
        *(
            Feature(
                _pivot_name("part", part),
                f"count(location_simple = {part}) over the patient",
                f"lesions of the patient at {part}",
            )
            for part in _PARTS
        ),
        *(
            Feature(
                _pivot_name("location", level),
                f"count(location = {level}) over the patient",
                f"lesions of the patient at {level}",
            )
            for level in _LOCATIONS
        ),
        Feature(
            "patient_size_rank",
            "(rank(diam) - 1) / n over the patient, ties averaged",
            "share of the patient's lesions that are smaller, 0 to 1",
        ),
    ),
    build=build,
    relative=True,
)
