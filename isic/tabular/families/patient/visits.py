"""Visits of a patient, ordered by age at imaging.

Age is in steps of five years, so closer visits are merged. The features of a lesion without an age
are missing. Values of later visits are not used: they are unknown at the time of a visit.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from isic.core.schema import PATIENT
from isic.tabular.names import MEANING
from isic.tabular.patient_groups import Groups
from isic.tabular.registry import Family, Feature
from isic.tabular.relative import official_column

_CHANGING = (
    "H",
    "L",
    "B",
    "diam",
    "areaMM2",
    "deltaLBnorm",
    "norm_color",
    "norm_border",
    "nevi_confidence",
)
_SITE, _LOCATION = "anatom_site_general", "tbp_lv_location"


def build(frame: pd.DataFrame) -> pd.DataFrame:
    """Timing and size of the visit, and the change since earlier visits and since the last one at
    the same site.
    """
    age = frame["age_approx"].to_numpy()
    known = ~np.isnan(age)
    visit = frame[[PATIENT, _SITE, _LOCATION]].assign(visit=pd.Categorical(age))
    patients = Groups.of(visit, (PATIENT,))
    first = patients.broadcast(_extreme(np.fmin, age, patients))
    last = patients.broadcast(_extreme(np.fmax, age, patients))
    columns = {
        "visit_years_since_first": age - first,
        "visit_years_to_last": last - age,
        "visit_range": last - first,
        "visit_phase": (age - first) / (last - first + 1e-5),
        "visit_count": patients.broadcast(_visits(visit, patients)),
        "visit_lesions": _sizes(visit, (PATIENT, "visit")),
        "visit_site_lesions": _sizes(visit, (PATIENT, _SITE, "visit")),
        "visit_location_lesions": _sizes(visit, (PATIENT, _LOCATION, "visit")),
    }
    for name in ("visit_lesions", "visit_site_lesions", "visit_location_lesions"):
        columns[name] = np.where(known, columns[name], np.nan)
    earlier = Earlier(visit)
    for v in _CHANGING:
        values = frame[official_column(v)].to_numpy()
        columns[f"visit_change__{v}"] = earlier.change(values, earlier.all_before)
        columns[f"visit_step__{v}"] = earlier.change(values, earlier.last_before)
    return pd.DataFrame(
        {feature.name: columns[feature.name].astype(np.float32) for feature in FAMILY.features},
        copy=False,
    )


def _extreme(ufunc: np.ufunc, values: NDArray[np.float64], groups: Groups) -> NDArray[np.float64]:
    extremes: NDArray[np.float64] = (
        ufunc.reduceat(values[groups.rows], groups.starts[:-1]) if len(values) else values
    )
    return extremes


def _visits(visit: pd.DataFrame, patients: Groups) -> NDArray[np.float64]:
    """Distinct known ages of each patient."""
    each_visit = Groups.of(visit, (PATIENT, "visit"))
    opening = np.zeros(len(visit))
    opening[each_visit.rows[each_visit.starts[:-1]]] = 1.0
    opening[visit["visit"].cat.codes.to_numpy() < 0] = 0.0
    return patients.sums(opening)


def _sizes(visit: pd.DataFrame, keys: tuple[str, ...]) -> NDArray[np.float64]:
    groups = Groups.of(visit, keys)
    return groups.broadcast(groups.sizes.astype(np.float64))


class Earlier:
    """Each lesion against lesions of the same patient and site at earlier visits."""

    def __init__(self, visit: pd.DataFrame) -> None:
        # Codes of `visit` grow with age, so within patient × site the groups are in order of time.
        self.visits = Groups.of(visit, (PATIENT, _SITE, "visit"))
        opening = self.visits.rows[self.visits.starts[:-1]]
        sites = Groups.of(visit, (PATIENT, _SITE))
        owner = np.empty(len(visit), dtype=np.int64)
        owner[sites.rows] = np.repeat(np.arange(len(sites.sizes)), sites.sizes)
        self.owner, self.known = owner[opening], visit["visit"].cat.codes.to_numpy()[opening] >= 0
        self.size = np.where(self.known, self.visits.sizes, 0).astype(np.float64)

    def change(
        self,
        values: NDArray[np.float64],
        before: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    ) -> NDArray[np.float64]:
        """Value minus the mean over the visits summed by `before`; 0 where there is none."""
        total, count = (
            before(np.where(self.known, self.visits.sums(values), 0.0)),
            before(self.size),
        )
        mean = self.visits.broadcast(
            np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)
        )
        change = np.where(np.isnan(mean), 0.0, values - mean)
        return np.where(self.visits.broadcast(self.known.astype(np.float64)) > 0, change, np.nan)

    def all_before(self, amount: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum of the earlier visits at the same site."""
        return _running(amount, self.owner)

    def last_before(self, amount: NDArray[np.float64]) -> NDArray[np.float64]:
        """The visit before each one at the same site."""
        out = np.zeros(len(amount))
        same = self.owner[1:] == self.owner[:-1]
        out[1:][same] = amount[:-1][same]
        return out


def _running(amount: NDArray[np.float64], owner: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sum of the earlier entries of the same owner; the entries of an owner are contiguous.

    Summed owner by owner: rounding of one running total would depend on the patients before.
    """
    out = np.zeros(len(amount))
    for step in range(1, int(np.bincount(owner).max(initial=0))):
        same = owner[step:] == owner[:-step]
        out[step:][same] += amount[:-step][same]
    return out


FAMILY = Family(
    name="visits",
    meaning="Visits of the patient, distinguished by age",
    features=(
        Feature(
            "visit_years_since_first",
            "age - min(age) over the patient",
            "years since the patient's first visit",
        ),
        Feature(
            "visit_years_to_last",
            "max(age) - age over the patient",
            "years until the patient's last visit",
        ),
        Feature(
            "visit_range",
            "max(age) - min(age) over the patient",
            "years between first and last visit",
        ),
        Feature(
            "visit_phase",
            "(age - min(age)) / (max(age) - min(age) + 1e-5) over the patient",
            "0 at the first visit to 1 at the last",
        ),
        Feature("visit_count", "number of distinct ages over the patient", "visits of the patient"),
        Feature("visit_lesions", "n over patient × age", "lesions photographed at the same visit"),
        Feature(
            "visit_site_lesions",
            "n over patient × anatom_site_general × age",
            "lesions photographed at the same visit and site",
        ),
        Feature(
            "visit_location_lesions",
            "n over patient × tbp_lv_location × age",
            "lesions photographed at the same visit and location",
        ),
        *(
            Feature(
                f"visit_change__{v}",
                f"{v} - mean({v}) over patient × anatom_site_general at smaller ages, 0 where there"
                " is none",
                f"change since earlier visits at the site: {MEANING[v]}",
            )
            for v in _CHANGING
        ),
        *(
            Feature(
                f"visit_step__{v}",
                f"{v} - mean({v}) over patient × anatom_site_general at the next smaller age, 0"
                " where there is none",
                f"change since the visit before at the site: {MEANING[v]}",
            )
            for v in _CHANGING
        ),
    ),
    build=build,
    relative=True,
)
