"""Families that apply one kernel to many measurements within groups of the patient's lesions: one
row each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from isic.core.schema import PATIENT
from isic.tabular.kernels import (
    from_median,
    percentile_rank,
    position,
    ratio_to_max,
    ratio_to_mean,
    upper_rank,
    zscore,
)
from isic.tabular.registry import Family, Feature
from isic.tabular.relative import (
    COMPARED,
    CORE,
    Kernel,
    formulas_only,
    measured_features,
    per_row,
)

#: Ratios to a mean or maximum near zero are unstable, so signed contrasts are left out.
_UNSIGNED = tuple(v for v in CORE if not v.startswith("delta") or v.startswith("deltaLB"))
_FORMULAS = "z-score within {group}, of the formulas and coordinates"


class _Row(NamedTuple):
    """A family: groups are patient × `keys`; `{group}` in `meaning` is replaced by their
    description.
    """

    name: str
    keys: tuple[str, ...]
    kernel: Kernel
    columns: Sequence[str]
    meaning: str


_SITE = ("anatom_site_general",)
_LOCATION = ("tbp_lv_location",)
_SIMPLE = ("tbp_lv_location_simple",)
_TILE = ("tbp_tile_type",)
_BOTH = (*_LOCATION, *_TILE)
_ALL, _REST = tuple(measured_features()), formulas_only()

_TABLE = (
    _Row("patient_z", (), zscore, _ALL, "z-score within {group}, of every measurement and formula"),
    _Row("site_z", _SITE, zscore, COMPARED, "z-score within {group}"),
    _Row("location_z", _LOCATION, zscore, COMPARED, "z-score within {group}"),
    _Row("location_simple_z", _SIMPLE, zscore, COMPARED, "z-score within {group}"),
    _Row("tile_z", _TILE, zscore, COMPARED, "z-score within {group}"),
    _Row("location_tile_z", _BOTH, zscore, COMPARED, "z-score within {group}"),
    _Row("site_formula_z", _SITE, zscore, _REST, _FORMULAS),
    _Row("location_formula_z", _LOCATION, zscore, _REST, _FORMULAS),
    _Row("location_simple_formula_z", _SIMPLE, zscore, _REST, _FORMULAS),
    _Row("tile_formula_z", _TILE, zscore, _REST, _FORMULAS),
    _Row("location_tile_formula_z", _BOTH, zscore, _REST, _FORMULAS),
    _Row("patient_rank", (), percentile_rank, COMPARED, "Percentile rank within {group}"),
    _Row("site_rank", _SITE, percentile_rank, CORE, "Percentile rank within {group}"),
    _Row("location_rank", _LOCATION, percentile_rank, CORE, "Percentile rank within {group}"),
    _Row("location_simple_rank", _SIMPLE, percentile_rank, CORE, "Percentile rank within {group}"),
    _Row("patient_median", (), from_median, CORE, "Difference to the patient's median"),
    _Row("patient_position", (), position, CORE, "Position between the patient's extremes"),
    _Row("patient_ratio", (), ratio_to_max, _UNSIGNED, "Ratio to the patient's largest value"),
    _Row("patient_mean_ratio", (), ratio_to_mean, _UNSIGNED, "Ratio to the patient's mean"),
)

#: Kernel → formula of `{v}` over the group, and meaning of the value.
_TEXTS: dict[Kernel, tuple[str, str]] = {
    zscore: ("({v} - mean({v})) / (sd({v}) + 1e-5) over {over}", "sd from {mean}: {meaning}"),
    percentile_rank: (
        "(rank({v}) - 1/2) / n over {over}, ties averaged",
        "share of {members} below, with half of the ties, 0 to 1: {meaning}",
    ),
    upper_rank: ("rank({v}) / n over {over}, ties averaged", "share at or below: {meaning}"),
    from_median: ("{v} - median({v}) over {over}", "minus the patient's median: {meaning}"),
    position: (
        "({v} - min({v})) / (max({v}) - min({v})) over {over}, 0 where constant",
        "0 at the patient's smallest value to 1 at the largest: {meaning}",
    ),
    ratio_to_max: (
        "{v} / (max({v}) + 1e-5) over {over}",
        "as a share of the patient's largest value: {meaning}",
    ),
    ratio_to_mean: (
        "{v} / (mean({v}) + 1e-5) over {over}",
        "as a multiple of the patient's mean: {meaning}",
    ),
}
#: Official column → its plain name.
_KEYS = {
    "anatom_site_general": "site",
    "tbp_lv_location": "location",
    "tbp_lv_location_simple": "part of the body",
    "tbp_tile_type": "lighting",
}


def _group_texts(keys: Sequence[str]) -> dict[str, str]:
    """Names of a family's group, its members and their mean in texts."""
    if not keys:
        members, mean = "the patient's lesions", "the patient's mean"
        return {"group": "the patient", "over": "the patient", "members": members, "mean": mean}
    *others, last = ("patient", *(_KEYS[key] for key in keys))
    members = f"the patient's lesions of the same {' and '.join(_KEYS[key] for key in keys)}"
    return {
        "group": f"{', '.join(others)} and {last}",
        "over": " × ".join(("patient", *keys)),
        "members": members,
        "mean": f"the mean of {members}",
    }


def _family(row: _Row) -> Family:
    texts, meanings = _group_texts(row.keys), measured_features()
    formula, meaning = _TEXTS[row.kernel]
    features = tuple(
        Feature(
            f"{row.name}__{v}",
            formula.format(v=v, **texts),
            meaning.format(meaning=meanings[v], **texts),
        )
        for v in row.columns
    )

    def build(frame: pd.DataFrame) -> pd.DataFrame:
        columns = per_row(frame, (PATIENT, *row.keys), row.columns, row.kernel)
        return pd.DataFrame(
            {f"{row.name}__{v}": values for v, values in columns.items()}, copy=False
        )

    return Family(row.name, row.meaning.format(**texts), features, build, relative=True)


FAMILIES = tuple(_family(row) for row in _TABLE)

#: The families of ranks as bundles of formats 1 and 2 have them: rank / n.
OLDER_RANKS = {
    row.name: _family(row._replace(kernel=upper_rank))
    for row in _TABLE
    if row.kernel is percentile_rank
}
