"""When the photograph was taken: ages within a patient order the visits.

Age is given in steps of five years, so visits closer than that fall together. A lesion without an age has none of
these. Values of later visits are not used: at the time of a visit they are the future.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from isic.core.schema import PATIENT
from isic.tabular.groups import Groups
from isic.tabular.names import MEANING
from isic.tabular.registry import Family, Feature
from isic.tabular.relative import column

CHANGING = ("H", "L", "B", "diam", "areaMM2", "deltaLBnorm", "norm_color", "norm_border", "nevi_confidence")
_SITE = "anatom_site_general"


def build(frame: pd.DataFrame) -> pd.DataFrame:
    """Timing and size of the visit, and the change since earlier visits at the same site."""
    age = frame["age_approx"].to_numpy()
    known = ~np.isnan(age)
    visit = frame[[PATIENT, _SITE]].assign(visit=pd.Categorical(age))
    patients = Groups.of(visit, (PATIENT,))
    first = patients.spread(_extreme(np.fmin, age, patients))
    last = patients.spread(_extreme(np.fmax, age, patients))
    columns = {
        "visit_years_since_first": age - first,
        "visit_years_to_last": last - age,
        "visit_range": last - first,
        "visit_phase": (age - first) / (last - first + 1e-5),
        "visit_count": patients.spread(_visits(visit, patients)),
        "visit_lesions": _sizes(visit, (PATIENT, "visit")),
        "visit_site_lesions": _sizes(visit, (PATIENT, _SITE, "visit")),
    }
    for name in ("visit_lesions", "visit_site_lesions"):
        columns[name] = np.where(known, columns[name], np.nan)
    columns |= {f"visit_change__{v}": _change(visit, frame[column(v)].to_numpy()) for v in CHANGING}
    return pd.DataFrame({name: values.astype(np.float32) for name, values in columns.items()}, copy=False)


def _extreme(ufunc: np.ufunc, values: NDArray[np.float64], groups: Groups) -> NDArray[np.float64]:
    found: NDArray[np.float64] = ufunc.reduceat(values[groups.rows], groups.starts[:-1]) if len(values) else values
    return found


def _visits(visit: pd.DataFrame, patients: Groups) -> NDArray[np.float64]:
    """Distinct known ages of each patient."""
    each_visit = Groups.of(visit, (PATIENT, "visit"))
    opening = np.zeros(len(visit))
    opening[each_visit.rows[each_visit.starts[:-1]]] = 1.0
    opening[visit["visit"].cat.codes.to_numpy() < 0] = 0.0
    return patients.sums(opening)


def _sizes(visit: pd.DataFrame, keys: tuple[str, ...]) -> NDArray[np.float64]:
    groups = Groups.of(visit, keys)
    return groups.spread(groups.sizes.astype(np.float64))


def _change(visit: pd.DataFrame, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Value minus the mean over earlier visits of the patient at the same site; 0 at the first visit there."""
    # Codes of `visit` grow with age, so within patient × site the groups come in order of time.
    visits = Groups.of(visit, (PATIENT, _SITE, "visit"))
    opening = visits.rows[visits.starts[:-1]]
    place = Groups.of(visit, (PATIENT, _SITE))
    owner = np.empty(len(visit), dtype=np.int64)
    owner[place.rows] = np.repeat(np.arange(len(place.sizes)), place.sizes)
    known = visit["visit"].cat.codes.to_numpy()[opening] >= 0
    total = np.where(known, visits.sums(values), 0.0)
    size = np.where(known, visits.sizes, 0).astype(np.float64)
    before, count = (_running(amount, owner[opening]) for amount in (total, size))
    mean = np.divide(before, count, out=np.full(len(count), np.nan), where=count > 0)
    earlier = visits.spread(mean)
    change = np.where(np.isnan(earlier), 0.0, values - earlier)
    return np.where(visits.spread(known.astype(np.float64)) > 0, change, np.nan)


def _running(amount: NDArray[np.float64], owner: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sum of the entries before each one that have the same owner; owners come in blocks.

    Summed block by block: one running total over all patients would round differently with other patients before.
    """
    out = np.zeros(len(amount))
    for step in range(1, int(np.bincount(owner).max(initial=0))):
        same = owner[step:] == owner[:-step]
        out[step:][same] += amount[:-step][same]
    return out


FAMILY = Family(
    name="visits",
    meaning="Visits of the patient, told apart by age",
    features=(
        Feature("visit_years_since_first", "age - min(age) over the patient", "years since the patient's first visit"),
        Feature("visit_years_to_last", "max(age) - age over the patient", "years until the patient's last visit"),
        Feature("visit_range", "max(age) - min(age) over the patient", "years between first and last visit"),
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
        *(
            Feature(
                f"visit_change__{v}",
                f"{v} - mean({v}) over patient × anatom_site_general at smaller ages, 0 where there is none",
                f"change since earlier visits at the site: {MEANING[v]}",
            )
            for v in CHANGING
        ),
    ),
    build=build,
    relative=True,
)
