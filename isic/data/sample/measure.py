"""The measured columns: a Gaussian copula with hospital and patient effects, then the identities.

Variables are drawn as normal scores and read off the published quantile tables, benign and
malignant apart. Age and position are given from outside; the others follow them as the published
Spearman correlations say. What remains is split into hospital offsets, patient effects and lesion
noise, so that lesions of a patient resemble each other and a malignant lesion stands out among its
own patient's.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import ndtr, ndtri

from isic.data.sample.population import (
    EXOGENOUS,
    FAINT,
    HIDDEN_ELSE,
    HIDDEN_IF_FAINT,
    SHOWN_TOGETHER,
    Group,
    Population,
    nearest_correlation,
)

#: Skin of patients with a malignant lesion: this part of the malignant-benign difference is the
#: patient's, not the lesion's. A guess; zero would make patient-relative features implausibly
#: strong.
_PATIENT_PART = 0.4
_SKIN = ("tbp_lv_Aext", "tbp_lv_Bext", "tbp_lv_Lext", "tbp_lv_stdLExt")
#: Lesions found by the machine have at least this contrast and diameter (published minima of
#: untagged lesions).
_LEAST_CONTRAST = 4.5
_LEAST_DIAMETER = 2.5


def draw_scores(
    facts: Population,
    rng: np.random.Generator,
    patients: pd.DataFrame,
    owner: np.ndarray,
    malignant: np.ndarray,
    given: np.ndarray,
) -> np.ndarray:
    """Normal scores (n, variables) of all copula variables.

    `owner` (n,) indexes patients, `malignant` (n,) is bool, `given` (n, 4) scores age, x, y, z.
    """
    hospital = np.stack(facts.hospitals["offset"].to_list())
    hospital_cov = _weighted_covariance(hospital, facts.hospitals["rows"].to_numpy(float))
    _, rest = _condition(facts.benign.correlation)
    spread = np.sqrt(np.minimum(facts.patient_share, 0.95 * np.diag(rest)))
    patient_cov = nearest_correlation(
        rest / np.sqrt(np.outer(np.diag(rest), np.diag(rest)))
    ) * np.outer(spread, spread)
    effect = (
        rng.standard_normal((len(patients), len(spread))) @ _root(patient_cov).T
        + hospital[patients["hospital"]]
    )
    shift = _skin_shift(facts)
    has_malignant = (patients["malignant"].to_numpy() > 0)[:, None]
    # Centred, so that the benign margins stay where they are.
    mean = has_malignant[owner[~malignant]].mean() if not malignant.all() else 0.0
    shifted = effect + (has_malignant - mean) * shift
    scores = np.empty((len(owner), len(facts.variables)))
    scores[:, :EXOGENOUS] = given
    for is_malignant, group, share in (
        (False, facts.benign, "rows"),
        (True, facts.overt, "malignant"),
    ):
        rows = np.flatnonzero(malignant == is_malignant)
        slope, rest = _condition(group.correlation)
        within = rest - hospital_cov - patient_cov
        root = _root(within)
        # Where the effects alone exceed what the group allows, everything shrinks back to its
        # variance.
        total = np.diag(root @ root.T + hospital_cov + patient_cov)
        scale = np.sqrt(np.diag(rest) / total)
        noise = rng.standard_normal((len(rows), len(scale))) @ root.T
        # The tables of a group already hold its mix of hospitals.
        mix = np.average(hospital, axis=0, weights=facts.hospitals[share].to_numpy(float))
        own = (effect if is_malignant else shifted) - mix
        scores[rows, EXOGENOUS:] = (noise + own[owner[rows]]) * scale + given[rows] @ slope.T
    return scores


def read_tables(
    facts: Population, rng: np.random.Generator, scores: np.ndarray, malignant: np.ndarray
) -> pd.DataFrame:
    """Values of the copula variables: each column read off the benign table, or the malignant one
    where that shows.
    """
    rows = np.flatnonzero(malignant)
    hidden = np.where(rng.random(len(rows)) < FAINT, HIDDEN_IF_FAINT, HIDDEN_ELSE)
    shown = {name: np.ones(len(rows), dtype=bool) for name in facts.variables[:EXOGENOUS]}
    for group, part in SHOWN_TOGETHER.items():
        shown |= dict.fromkeys(group, rng.random(len(rows)) >= part * hidden)
    columns = {}
    for index, name in enumerate(facts.variables):
        column = facts.benign.tables[name](scores[:, index])
        overt = rows[shown[name]]
        column[overt] = facts.overt.tables[name](scores[overt, index])
        columns[name] = column
    return pd.DataFrame(columns)


def complete(rng: np.random.Generator, drawn: pd.DataFrame) -> pd.DataFrame:
    """All measured columns from the drawn ones, float64 values of float32 precision.

    Exact identities hold to the rounding; near-exact relations carry the published residuals (FIELD
    A.4).
    """
    n = len(drawn)
    normal = rng.standard_normal((5, n))
    rows = drawn.copy()
    tbp = {name.removeprefix("tbp_lv_"): rows[name].to_numpy() for name in rows.columns}
    rows["clin_size_long_diam_mm"] = diameter = np.round(tbp["clin_size_long_diam_mm"], 2)
    flat = np.clip(tbp["eccentricity"] - 0.012 + 0.03 * normal[0], 0.0, 0.985)
    rows["tbp_lv_minorAxisMM"] = minor = _stored(diameter * np.sqrt(1 - flat**2))
    area = _stored(0.966 * np.pi / 4 * diameter * minor * np.clip(1 + 0.116 * normal[1], 0.6, 1.4))
    rows["tbp_lv_areaMM2"] = area
    rows["tbp_lv_perimeterMM"] = perimeter = _stored(np.sqrt(tbp["area_perim_ratio"] * area))
    rows["tbp_lv_area_perim_ratio"] = ratio = perimeter**2 / area
    _add_colours(rows, tbp)
    _add_contrasts(rows, rng, normal[2])
    tidy = np.where(tbp["color_std_mean"] == 0, 0.0, tbp["radial_color_std_max"])
    rows["tbp_lv_radial_color_std_max"] = tidy
    colour = np.clip(
        1.266 * tbp["color_std_mean"] + 1.635 * tidy + 0.10 + 0.17 * normal[3], 0.01, 10
    )
    rows["tbp_lv_norm_color"] = np.where(tbp["color_std_mean"] == 0, 0.0, colour)
    rows["tbp_lv_norm_border"] = np.clip(
        0.1731 * ratio + 7.577 * tbp["symm_2axis"] - 2.172 + 0.09 * normal[4], 0, 10
    )
    rows["tbp_lv_symm_2axis_angle"] = 5 * rng.integers(0, 36, n)
    return rows.apply(_stored)


def _add_colours(rows: pd.DataFrame, tbp: dict[str, np.ndarray]) -> None:
    for axis in "ABL":
        outside = _stored(tbp[f"{axis}ext"])
        inside = _stored(
            np.maximum(
                outside + tbp[f"delta{axis}"], 0.5 if axis == "B" else 4.0 if axis == "L" else -2.4
            )
        )
        rows[f"tbp_lv_{axis}ext"], rows[f"tbp_lv_{axis}"] = outside, inside
        rows[f"tbp_lv_delta{axis}"] = inside - outside
    for end in ("", "ext"):
        a, b = rows[f"tbp_lv_A{end}"], rows[f"tbp_lv_B{end}"]
        rows[f"tbp_lv_C{end}"] = np.hypot(a, b)
        rows[f"tbp_lv_H{end}"] = np.degrees(np.arctan2(b, a))


def _add_contrasts(rows: pd.DataFrame, rng: np.random.Generator, normal: np.ndarray) -> None:
    """deltaLB = √(deltaL² + deltaB²) + e, and its ratio to the skin's lightness."""
    excess = rng.gamma(3.26, 0.051, len(rows))
    contrast = np.hypot(rows["tbp_lv_deltaL"], rows["tbp_lv_deltaB"]).to_numpy() + excess
    rows["tbp_lv_deltaLB"] = contrast
    normalised = contrast * (40.5 + 3.2 * normal) / rows["tbp_lv_Lext"].to_numpy()
    # Fainter lesions are not detected: what falls below the threshold is folded back above it.
    low = normalised < _LEAST_CONTRAST
    rows["tbp_lv_deltaLBnorm"] = np.where(
        low, np.minimum(2 * _LEAST_CONTRAST - normalised, 6.5), normalised
    )


def is_small(diameter: np.ndarray) -> np.ndarray:
    """Lesions below what the machine selects by itself: they are in the data because a clinician
    tagged them.
    """
    return diameter < _LEAST_DIAMETER


def mixture_scores(weights: np.ndarray, place: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Normal scores of `values` under a mixture of normals with `place` (k, 2) means and sds."""
    low, high = place[:, 0].min() - 5 * place[:, 1].max(), place[:, 0].max() + 5 * place[:, 1].max()
    grid = np.linspace(low, high, 2001)
    probability = ndtr((grid[:, None] - place[:, 0]) / place[:, 1]) @ (weights / weights.sum())
    return np.interp(values, grid, ndtri(np.clip(probability, 1e-6, 1 - 1e-6)))


def _stored(column: np.ndarray | pd.Series) -> np.ndarray:
    """Float64 values that survive the file's seven digits."""
    return np.asarray(column, dtype=np.float32).astype(np.float64)


def _condition(correlation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Regression of the drawn variables on the exogenous ones, and the covariance left over."""
    outer, cross = correlation[:EXOGENOUS, :EXOGENOUS], correlation[EXOGENOUS:, :EXOGENOUS]
    slope = np.linalg.solve(outer, cross.T).T
    return slope, correlation[EXOGENOUS:, EXOGENOUS:] - slope @ cross.T


def _root(covariance: np.ndarray) -> np.ndarray:
    """A matrix whose product with its transpose is the covariance, negative directions dropped."""
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    return vectors * np.sqrt(np.clip(values, 0, None))


def _weighted_covariance(points: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.cov(points.T, aweights=weights, ddof=0)


def _skin_shift(facts: Population) -> np.ndarray:
    """How far the median malignant lesion lies from the benign ones, in benign normal scores, skin
    columns only.
    """
    shift = np.zeros(len(facts.variables) - EXOGENOUS)
    for index, name in enumerate(facts.variables[EXOGENOUS:]):
        if name in _SKIN:
            benign: Group = facts.benign
            median = facts.overt.tables[name](np.zeros(1))
            table = benign.tables[name]
            shift[index] = _PATIENT_PART * np.interp(median, table.values, table.scores)[0]
    return shift
