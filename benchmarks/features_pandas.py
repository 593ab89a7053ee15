"""The usual code of the public notebooks: one `groupby().transform` per column and statistic,
scikit-learn per patient.

The other side of the features benchmark. As in the notebooks, every column and statistic groups the
frame again; with `regroup=False` each family groups it once, which is faster than the notebooks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from sklearn.neighbors import LocalOutlierFactor
from sklearn.preprocessing import StandardScaler

from isic.core.schema import CATEGORICAL, ID, NUMERIC, PATIENT
from isic.tabular import feature_families
from isic.tabular.names import OFFICIAL
from isic.tabular.spaces import DUCKLING

LESION = (
    "age",
    "border",
    "colour",
    "composite",
    "location",
    "shape",
    "size",
    "texture",
    "colour_pairs",
)
KEYS = {
    "patient": [PATIENT],
    "site": [PATIENT, "anatom_site_general"],
    "location": [PATIENT, "tbp_lv_location"],
    "location_simple": [PATIENT, "tbp_lv_location_simple"],
    "tile": [PATIENT, "tbp_tile_type"],
    "location_tile": [PATIENT, "tbp_lv_location", "tbp_tile_type"],
}
_FUNCTIONS = {
    "abs": np.abs,
    "atan2": np.arctan2,
    "cbrt": np.cbrt,
    "hypot": np.hypot,
    "log": np.log,
    "log1p": np.log1p,
    "pi": np.pi,
    "sqrt": np.sqrt,
}


#: Returns the frame's groups, computed again or cached.
Groups = Callable[[], pd.api.typing.DataFrameGroupBy]


def build(frame: pd.DataFrame, families: Sequence[str], regroup: bool = True) -> pd.DataFrame:
    """The columns of `isic.tabular.build_features` for these families, float64."""
    frame = frame.copy()
    for name in LESION:
        for feature in feature_families()[name].features if _wanted(name, families) else ():
            frame[feature.name] = _formula(frame, feature.formula)
    columns = {ID: frame[ID]}
    for name in feature_families():
        if name in families:
            columns |= {**_raw(frame)} if name == "raw" else _family(frame, name, regroup)
    return pd.DataFrame(columns)


def supported(families: Sequence[str]) -> list[str]:
    """Those of `families` that this module computes."""
    return [name for name in families if name in ("raw", "patient_counts", *LESION) or _way(name)]


def outlier_factor(frame: pd.DataFrame) -> pd.Series:
    """scikit-learn's LocalOutlierFactor, patient by patient, on standardised columns."""
    table = pd.DataFrame({name: _column(frame, name) for name in DUCKLING})
    out = pd.Series(1.0, index=frame.index)
    for _, rows in table.groupby(frame[PATIENT]):
        if len(rows) > 2:
            # A column without any value (no known age) is 0; other missing values become the
            # patient's mean.
            rows = rows.assign(**dict.fromkeys(rows.columns[rows.isna().all()], 0.0))
            scaled = np.nan_to_num(StandardScaler().fit_transform(rows))
            model = LocalOutlierFactor(n_neighbors=min(len(rows) - 1, 30), n_jobs=2).fit(scaled)
            out[rows.index] = -model.negative_outlier_factor_
    return out


def _way(name: str) -> bool:
    key, _, way = name.rpartition("_")
    return key in KEYS and way in _WAYS


def _wanted(name: str, families: Sequence[str]) -> bool:
    relative = any(feature_families()[family].relative for family in families)
    return name in families or (relative and feature_families()[name].measured)


def _raw(frame: pd.DataFrame) -> dict[str, pd.Series]:
    return {name: frame[name] for name in (*NUMERIC, *CATEGORICAL)}


def _formula(frame: pd.DataFrame, formula: str) -> pd.Series:
    return eval(
        formula,
        {"__builtins__": {}, **_FUNCTIONS},
        {name: frame[column] for name, column in OFFICIAL.items()},
    )


def _column(frame: pd.DataFrame, name: str) -> pd.Series:
    if name in OFFICIAL or name in frame:
        return frame[OFFICIAL.get(name, name)]
    features = {
        feature.name: feature
        for family in feature_families().values()
        for feature in family.features
    }
    return _formula(frame, features[name].formula)


def _family(frame: pd.DataFrame, name: str, regroup: bool) -> dict[str, pd.Series]:
    features = [feature.name for feature in feature_families()[name].features]
    if name in LESION:
        return {feature: frame[feature] for feature in features}
    if name == "patient_counts":
        return _counts(frame)
    key, _, way = name.rpartition("_")
    kept = frame.groupby(KEYS[key], dropna=False)

    def groups() -> pd.api.typing.DataFrameGroupBy:
        return frame.groupby(KEYS[key], dropna=False) if regroup else kept

    if way == "level":
        return {feature: _level(groups, feature) for feature in features}
    return {
        feature: _WAYS[way](_column(frame, feature.split("__")[1]), groups) for feature in features
    }


def _z(values: pd.Series, groups: Groups) -> pd.Series:
    mean, sd = (
        groups()[values.name].transform("mean"),
        groups()[values.name].transform("std", ddof=0),
    )
    return (values - mean) / (sd + 1e-5)


def _rank(values: pd.Series, groups: Groups) -> pd.Series:
    found = groups()[values.name]
    return (found.rank() - 0.5) / found.transform("count")


def _position(values: pd.Series, groups: Groups) -> pd.Series:
    low, high = groups()[values.name].transform("min"), groups()[values.name].transform("max")
    return ((values - low) / (high - low)).where(high > low, values - low)


def _median(values: pd.Series, groups: Groups) -> pd.Series:
    return values - groups()[values.name].transform("median")


def _ratio(values: pd.Series, groups: Groups) -> pd.Series:
    return values / (groups()[values.name].transform("max") + 1e-5)


#: Last word of a family's name → how one of its columns is computed.
_WAYS: dict[str, Callable[[pd.Series, Groups], pd.Series]] = {
    "z": _z,
    "rank": _rank,
    "position": _position,
    "median": _median,
    "ratio": _ratio,
    "level": _z,  # a statistic per column: see _level
}


def _level(groups: Groups, feature: str) -> pd.Series:
    name, _, statistic = feature.split("__")[1].rpartition("_")
    own = groups()[OFFICIAL[name]]
    if statistic == "sd":
        return own.transform("std", ddof=0)
    if statistic == "skew":
        return own.transform(lambda values: _skew(values.to_numpy()))
    return own.transform(statistic)


def _skew(values: np.ndarray) -> float:
    away = values - np.nanmean(values)
    sd = np.sqrt(np.nanmean(away**2))
    return float(np.nanmean(away**3) / sd**3) if sd > 1e-9 else 0.0


def _counts(frame: pd.DataFrame) -> dict[str, pd.Series]:
    keys = {name: KEYS[name] for name in ("site", "location", "location_simple", "tile")}
    patient = frame.groupby(PATIENT)
    area = patient["tbp_lv_areaMM2"].transform("sum")
    counts = {"patient_count": patient[ID].transform("size"), "patient_area": area}
    for name, key in keys.items():
        counts[f"patient_{name}_count"] = frame.groupby(key, dropna=False)[ID].transform("size")
        counts[f"patient_{name}_share"] = counts[f"patient_{name}_count"] / counts["patient_count"]
    counts["patient_site_area"] = frame.groupby(KEYS["site"], dropna=False)[
        "tbp_lv_areaMM2"
    ].transform("sum")
    counts["patient_area_share"] = frame["tbp_lv_areaMM2"] / (area + 1e-5)
    smaller = patient["clin_size_long_diam_mm"].rank() - 1
    counts["patient_size_rank"] = smaller / counts["patient_count"]
    for feature in feature_families()["patient_counts"].features:
        if feature.formula.startswith("count("):
            key, _, level = (
                feature.formula.removeprefix("count(").partition(") over")[0].partition(" = ")
            )
            own = frame[key if key in frame else f"tbp_lv_{key}"] == level
            counts[feature.name] = own.groupby(frame[PATIENT]).transform("sum")
    return {
        feature.name: counts[feature.name]
        for feature in feature_families()["patient_counts"].features
    }
