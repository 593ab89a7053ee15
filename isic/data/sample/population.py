"""What is published about the 401,059 lesions, as values: the only place that reads a population
file.

The numbers are aggregates; their sources are named in the file. No row of the challenge data is in
it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtri

from isic.core.errors import InputError

#: Measurements that a malignant lesion shows or hides together, and how much of the hiding they take
#: part in: malignant sizes leave little room for benign ones, and hues mixed from a hidden and a
#: shown half of the lesions would spread too far.
SHOWN_TOGETHER: dict[tuple[str, ...], float] = {
    (
        "clin_size_long_diam_mm",
        "tbp_lv_eccentricity",
        "tbp_lv_area_perim_ratio",
        "tbp_lv_symm_2axis",
    ): 0.5,
    ("tbp_lv_Aext", "tbp_lv_Bext", "tbp_lv_deltaA", "tbp_lv_deltaB", "tbp_lv_stdLExt"): 0.5,
    (
        "tbp_lv_Lext",
        "tbp_lv_deltaL",
        "tbp_lv_stdL",
        "tbp_lv_color_std_mean",
        "tbp_lv_radial_color_std_max",
    ): 1.0,
    ("tbp_lv_nevi_confidence", "tbp_lv_dnn_lesion_confidence"): 1.0,
}
SIZE = "clin_size_long_diam_mm"
#: Lesions found by the machine are at least this long (published minimum of untagged lesions).
LEAST_DIAMETER = 2.5

#: The first variables, age and position, are drawn outside the copula; the others follow them.
EXOGENOUS = 4

#: Spreads the ends of a quantile table over a finite range of normal scores: 1 in 400,000.
_EDGE = 2.5e-6
#: Normal scores of 4,000 equal shares.
_FINE = ndtri((np.arange(4000) + 0.5) / 4000)


@dataclass(frozen=True)
class Table:
    """A quantile table: values at normal scores, interpolated between them.

    Interpolation runs along normal scores, not probabilities, so that the stretch from the 99th
    percentile to the maximum thins out like a tail instead of being uniform.
    """

    scores: np.ndarray
    values: np.ndarray

    def __call__(self, score: np.ndarray) -> np.ndarray:
        """Values of any shape at normal scores."""
        return np.interp(score, self.scores, self.values)

    @classmethod
    def of(cls, published: dict[str, list[float]]) -> Table:
        """From probabilities and values as published; 0 and 1 stand for the minimum and maximum of
        the sample.
        """
        probabilities = np.clip(np.asarray(published["p"]), _EDGE, 1 - _EDGE)
        return cls(ndtri(probabilities), np.asarray(published["value"], dtype=np.float64))

    def score(self, value: np.ndarray) -> np.ndarray:
        """Normal scores of values of any shape."""
        return np.interp(value, self.values, self.scores)

    def without(self, other: Table, share: float) -> Table:
        """What is left of this distribution when `share` of it comes from `other`.

        Where `other` claims more than there is, nothing is left; the small difference goes to its
        neighbours.
        """
        whole, part = np.sort(self(_FINE)), np.sort(other(_FINE))
        values = np.sort(np.concatenate([whole, part]))
        below, taken = (
            np.searchsorted(side, values, "right") / len(side) for side in (whole, part)
        )
        rest = np.maximum.accumulate((below - share * taken) / (1 - share))
        return Table(ndtri(np.clip(rest, _EDGE, 1 - _EDGE)), values)

    def at_least(self, low: float) -> Table:
        """The part of this distribution from `low` on."""
        values = self(_FINE)
        values = values[values >= low]
        return Table(ndtri((np.arange(len(values)) + 0.5) / len(values)), values)

    def below(self, high: float) -> float:
        """Probability of a value below `high`."""
        return float((self(_FINE) < high).mean())


@dataclass(frozen=True)
class Group:
    """Lesions that look benign, or that look malignant: a table per variable and their correlation
    in normal scores.
    """

    tables: dict[str, Table]
    correlation: np.ndarray


@dataclass(frozen=True)
class VisibilityModel:
    """How much of what makes malignant lesions malignant can be seen in one of them.

    Every malignant lesion has one standard normal latent. A group of columns is hidden where
    √shared · latent + √(1 − shared) · noise falls into its lowest `hidden` share. A lookalike is a
    benign lesion drawn like a malignant one of `LEAST_DIAMETER` or more.
    """

    hidden: float
    shared: float
    #: Share of benign lesions.
    lookalikes: float
    #: Correlation of what the columns show with what the picture adds.
    picture: float


@dataclass(frozen=True)
class Population:
    """Everything the generator is given."""

    rows: int
    malignant: int
    patients: int
    malignant_patients: int
    #: Mean age of malignant lesions (years), and the share below `LEAST_DIAMETER`.
    malignant_age: float
    malignant_small: float
    variables: tuple[str, ...]
    #: All benign lesions, and those that are no lookalikes.
    benign: Group
    plain: Group
    #: What malignant lesions and lookalikes measure in the groups of columns that they show.
    overt: Group
    lookalike: Group
    visibility: VisibilityModel
    #: Near-exact relations between columns: name → coefficients and residual sd (see measure).
    relations: dict[str, list[float]]
    #: Tile type → image colour of the skin by Lext, Aext, Bext, its residual sd, contrast factors.
    tiles: dict[str, dict[str, Any]]
    #: Share of each variable's variance that lies between patients (of one hospital); exogenous
    #: ones excluded.
    patient_share: np.ndarray
    #: name, licence, rows, malignant, patients, white_benign, white_malignant, offset (per
    #: variable, normal scores)
    hospitals: pd.DataFrame
    #: name, benign and malignant (shares), x, y, z (mean and sd in mm)
    locations: pd.DataFrame
    #: How many malignant patients have 1, 2, … malignant lesions.
    malignant_per_patient: dict[int, int]
    lesions_of_malignant_patient: tuple[np.ndarray, np.ndarray]
    lesions_of_benign_patient: tuple[np.ndarray, np.ndarray]
    #: Counts of full diagnoses, by first level in lower case.
    diagnoses: dict[str, dict[str, int]]
    mel_thick_mm: dict[str, int]
    mel_mitotic_index: dict[str, int]


@cache
def population(path: Path | None = None) -> Population:
    """The published numbers, or those of another file of the same form, read once.

    Raises InputError for a file that is absent or has another form.
    """
    file = path or resources.files(__package__).joinpath("population.json")
    try:
        return _population(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        if path is None:
            raise
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{path} is no population file: {reason}") from error


def _population(facts: dict[str, Any]) -> Population:
    benign, whole = _group(facts, "benign"), _group(facts, "malignant")
    visibility = VisibilityModel(**facts["visibility"])
    large = Group(
        whole.tables | {SIZE: whole.tables[SIZE].at_least(LEAST_DIAMETER)}, whole.correlation
    )
    plain = Group(
        {
            name: table
            if name in facts["variables"][:EXOGENOUS]
            else table.without(large.tables[name], visibility.lookalikes)
            for name, table in benign.tables.items()
        },
        benign.correlation,
    )
    return Population(
        rows=facts["rows"],
        malignant=facts["malignant"],
        patients=facts["patients"],
        malignant_patients=facts["malignant_patients"],
        malignant_age=float(whole.tables["age_approx"](_FINE).mean()),
        malignant_small=whole.tables[SIZE].below(LEAST_DIAMETER),
        variables=tuple(facts["variables"]),
        benign=benign,
        plain=plain,
        overt=_overt(whole, plain, visibility.hidden),
        lookalike=_overt(large, plain, visibility.hidden),
        visibility=visibility,
        relations=facts["relations"],
        tiles=facts["tiles"],
        patient_share=np.asarray(facts["patient_share"]),
        hospitals=pd.DataFrame(facts["hospitals"]),
        locations=_locations(facts),
        malignant_per_patient={
            int(count): patients for count, patients in facts["malignant_per_patient"].items()
        },
        lesions_of_malignant_patient=_counts(facts, "malignant"),
        lesions_of_benign_patient=_counts(facts, "benign"),
        diagnoses=facts["diagnoses"],
        mel_thick_mm=facts["mel_thick_mm"],
        mel_mitotic_index=facts["mel_mitotic_index"],
    )


def _group(facts: dict[str, Any], name: str) -> Group:
    tables = {variable: Table.of(columns[name]) for variable, columns in facts["quantiles"].items()}
    return Group(tables, _normal_correlation(facts["spearman"][name]))


def _overt(whole: Group, plain: Group, hidden: float) -> Group:
    """Age and position are never hidden; of the others the hidden share is taken out, so that the
    whole stays right.
    """
    tables = dict(whole.tables)
    for group, part in SHOWN_TOGETHER.items():
        tables |= {
            name: whole.tables[name].without(plain.tables[name], part * hidden) for name in group
        }
    return Group(tables, whole.correlation)


def _locations(facts: dict[str, Any]) -> pd.DataFrame:
    table = pd.DataFrame(facts["locations"])
    benign, malignant = (table[column] / table[column].sum() for column in ("rows", "malignant"))
    return table[["name", "x", "y", "z"]].assign(benign=benign, malignant=malignant)


def _counts(facts: dict[str, Any], name: str) -> tuple[np.ndarray, np.ndarray]:
    table = facts["lesions_per_patient"][name]
    return np.asarray(table["p"]), np.asarray(table["value"], dtype=np.float64)


def _normal_correlation(lower: list[list[float]]) -> np.ndarray:
    """Pearson correlation of normal scores with the given Spearman correlation (2 sin πρ/6), lower
    triangle by rows.
    """
    spearman = np.eye(len(lower))
    for index, row in enumerate(lower):
        spearman[index, :index] = spearman[:index, index] = row
    return nearest_correlation(2 * np.sin(np.pi * spearman / 6))


def nearest_correlation(matrix: np.ndarray) -> np.ndarray:
    """The matrix with negative eigenvalues lifted to 1e-4 and the diagonal back at one."""
    values, vectors = np.linalg.eigh(matrix)
    lifted = (vectors * np.clip(values, 1e-4, None)) @ vectors.T
    scale = np.sqrt(np.diag(lifted))
    return lifted / np.outer(scale, scale)
