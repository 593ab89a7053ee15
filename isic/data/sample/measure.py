"""The measured columns: a Gaussian copula with hospital and patient effects, then the identities.

Variables are drawn as normal scores and read off the published quantile tables, benign and
malignant apart. Age and position are given from outside; the others follow them as the published
Spearman correlations say. What remains is split into hospital offsets, patient effects and lesion
noise, so that lesions of a patient resemble each other and a malignant lesion stands out among its
own patient's.

Two things keep the task as hard as it is on real rows. A malignant lesion hides some groups of
columns, which are then read off the benign tables: that decides the last fifth of the ROC curve.
Some benign lesions are lookalikes, drawn like malignant ones: they decide its first half, where
without them half of the malignant lesions would be found at a sixth of the real false-positive
rate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import ndtr, ndtri
from scipy.stats import rankdata

from isic.data.sample.population import (
    EXOGENOUS,
    LEAST_DIAMETER,
    SHOWN_TOGETHER,
    SIZE,
    Group,
    Population,
    nearest_correlation,
)

#: Skin of patients with a malignant lesion: this part of the malignant-benign difference is the
#: patient's, not the lesion's. A guess; zero would make patient-relative features implausibly
#: strong.
_PATIENT_PART = 0.4
_SKIN = ("tbp_lv_Aext", "tbp_lv_Bext", "tbp_lv_Lext", "tbp_lv_stdLExt")
#: Columns that a lesion too small to measure shows all the same, as no colour at all.
_COLOUR = ("tbp_lv_color_std_mean", "tbp_lv_radial_color_std_max")
_COLOUR_GROUP = next(i for i, names in enumerate(SHOWN_TOGETHER) if _COLOUR[0] in names)
#: Draws of the malignant lesions from which the middle one is taken.
_DRAWS = 32
#: Below this diameter (mm) colour spread falls away, in normal scores per log of the diameter: real
#: lesions under 2 mm have none, a third of those at 2.5 to 3.3 mm have none.
_MEASURABLE, _FADE = 3.3, 2.5


@dataclass(frozen=True)
class Visibility:
    """Latents of the rows.

    Attributes:
        lookalike: bool (n,), benign lesions that are drawn like malignant ones.
        latent: float64 (n,), how much a malignant lesion or a lookalike shows of it; standard
            normal, NaN for all others.
        shown: bool (n, groups), the groups of `SHOWN_TOGETHER` that it shows.
    """

    lookalike: np.ndarray
    latent: np.ndarray
    shown: np.ndarray


def draw_visibility(
    facts: Population, rng: np.random.Generator, malignant: np.ndarray
) -> Visibility:
    """The published share of lookalikes, latents in equal steps of probability, and the share of
    each group of columns that is hidden.
    """
    model = facts.visibility
    benign = np.flatnonzero(~malignant)
    lookalike = np.zeros(len(malignant), dtype=bool)
    count = round(model.lookalikes * len(benign))
    lookalike[rng.choice(benign, count, replace=False)] = True
    latent = np.full(len(malignant), np.nan)
    shown = np.zeros((len(malignant), len(SHOWN_TOGETHER)), dtype=bool)
    for members in (malignant, lookalike):
        size = int(members.sum())
        latent[members] = common = stratified(rng, rng.random((size, 1)))[:, 0]
        own = stratified(rng, rng.random((size, len(SHOWN_TOGETHER))))
        level = np.sqrt(model.shared) * common[:, None] + np.sqrt(1 - model.shared) * own
        chance = model.hidden * np.array(list(SHOWN_TOGETHER.values()))
        if members is malignant:
            # Lesions too small to measure show their colours always; the others hide more often.
            chance[_COLOUR_GROUP] /= 1 - facts.malignant_small
        shown[members] = stratified(rng, level) >= ndtri(np.minimum(chance, 0.95))
    return Visibility(lookalike, latent, shown)


def stratified(rng: np.random.Generator, scores: np.ndarray) -> np.ndarray:
    """Normal scores (n, k) in the order of `scores`, one of each column in each of n equal shares.

    A column read off a table with them has that table's distribution whatever the seed.
    """
    n = len(scores)
    ranks = np.empty(scores.shape, dtype=np.int64)
    np.put_along_axis(ranks, np.argsort(scores, axis=0), np.arange(n)[:, None], axis=0)
    return ndtri(np.clip((ranks + rng.random(scores.shape)) / max(n, 1), 1e-7, 1 - 1e-7))


def draw_scores(
    facts: Population,
    rng: np.random.Generator,
    patients: pd.DataFrame,
    owner: np.ndarray,
    malignant: np.ndarray,
    visibility: Visibility,
    given: np.ndarray,
) -> np.ndarray:
    """Normal scores (n, variables) of all copula variables.

    `owner` (n,) indexes patients, `malignant` (n,) is bool, `given` (n, 4) scores age, x, y, z. Of
    `_DRAWS` draws of the malignant lesions the one nearest the middle is taken, by how much
    evidence its least visible half shows: that half decides the partial AUC.
    """
    lookalike = visibility.lookalike
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
    for members, group, share in (
        (~malignant & ~lookalike, facts.plain, "rows"),
        (lookalike, facts.lookalike, "rows"),
        (malignant, facts.overt, "malignant"),
    ):
        rows = np.flatnonzero(members)
        slope, rest = _condition(group.correlation)
        within = rest - hospital_cov - patient_cov
        root = _root(within)
        # Where the effects alone exceed what the group allows, everything shrinks back to its
        # variance.
        total = np.diag(root @ root.T + hospital_cov + patient_cov)
        scale = np.sqrt(np.diag(rest) / total)
        # The tables of a group already hold its mix of hospitals.
        mix = np.average(hospital, axis=0, weights=facts.hospitals[share].to_numpy(float))
        own = (effect if share == "malignant" else shifted) - mix
        centre = own[owner[rows]] * scale + given[rows] @ slope.T
        draws = []
        for _ in range(_DRAWS if members is malignant and len(rows) > 1 else 1):
            noise = rng.standard_normal(centre.shape) @ root.T
            draws.append(stratified(rng, noise * scale + centre))
        chosen = _middle(facts, draws, visibility.shown[rows]) if len(draws) > 1 else 0
        scores[rows, EXOGENOUS:] = draws[chosen]
    return scores


def evidence(
    facts: Population, scores: np.ndarray, malignant: np.ndarray, visibility: Visibility
) -> np.ndarray:
    """How much the columns of each malignant lesion or lookalike show (n,), as normal scores within
    the two classes; NaN for all others.
    """
    found = np.full(len(scores), np.nan)
    for members in (malignant, visibility.lookalike):
        if members.any():
            shows = _evidence(facts, scores[None, members, EXOGENOUS:], visibility.shown[members])
            found[members] = ndtri(rankdata(shows[0], method="ordinal") / (members.sum() + 1))
    return found


def _middle(facts: Population, draws: list[np.ndarray], shown: np.ndarray) -> int:
    """Index of the draw whose evidence, sorted, is nearest the mean over all draws."""
    curves = np.sort(_evidence(facts, np.stack(draws), shown), axis=1)[:, : (len(shown) + 1) // 2]
    return int(np.abs(curves - curves.mean(axis=0)).mean(axis=1).argmin())


def _evidence(facts: Population, scores: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Linear discriminant (draws, n) on the benign scores that the values stand for.

    `scores` (draws, n, variables without the exogenous), `shown` (n, groups).
    """
    names = facts.variables[EXOGENOUS:]
    groups = [next(i for i, group in enumerate(SHOWN_TOGETHER) if name in group) for name in names]
    stands = np.empty(scores.shape)
    for column, (name, group) in enumerate(zip(names, groups, strict=True)):
        score = scores[:, :, column]
        seen = facts.plain.tables[name].score(facts.overt.tables[name](score))
        stands[:, :, column] = np.where(shown[:, group], seen, score)
    correlation = facts.plain.correlation[EXOGENOUS:, EXOGENOUS:]
    weights = np.linalg.solve(correlation + 0.1 * np.eye(len(names)), stands.mean(axis=(0, 1)))
    return np.asarray(stands @ weights)


def read_tables(
    facts: Population,
    rng: np.random.Generator,
    scores: np.ndarray,
    malignant: np.ndarray,
    visibility: Visibility,
) -> pd.DataFrame:
    """Values of the copula variables: each column read off the benign table, or the malignant one
    where that shows.
    """
    columns: dict[str, np.ndarray] = {}
    for name in sorted(facts.variables, key=lambda name: name != SIZE):
        index = facts.variables.index(name)
        if index < EXOGENOUS:
            shows = ~np.isnan(visibility.latent)
        else:
            group = next(i for i, names in enumerate(SHOWN_TOGETHER) if name in names)
            shows = visibility.shown[:, group]
            if group == _COLOUR_GROUP:
                shows = shows | (malignant & is_small(columns[SIZE]))
        parts = [~shows, shows & malignant, shows & visibility.lookalike]
        column = np.empty(len(scores))
        for part, source in zip(parts, (facts.plain, facts.overt, facts.lookalike), strict=True):
            score = scores[part, index]
            if name in _COLOUR:
                fade = np.log(np.maximum(_MEASURABLE / columns[SIZE][part], 1))
                score = stratified(rng, (score - _FADE * fade)[:, None])[:, 0]
            column[part] = source.tables[name](score)
        columns[name] = column
    return pd.DataFrame({name: columns[name] for name in facts.variables})


def complete(facts: Population, rng: np.random.Generator, drawn: pd.DataFrame) -> pd.DataFrame:
    """All measured columns from the drawn ones, float64 values of float32 precision.

    Exact identities hold to the rounding; near-exact relations are the fitted ones, with their
    residual sd.
    """
    fit = facts.relations
    n = len(drawn)
    normal = rng.standard_normal((5, n))
    rows = drawn.copy()
    tbp = {name.removeprefix("tbp_lv_"): rows[name].to_numpy() for name in rows.columns}
    rows["clin_size_long_diam_mm"] = diameter = np.round(tbp["clin_size_long_diam_mm"], 2)
    flat, spread = _fitted(fit["eccentricity"], tbp["eccentricity"])
    flat = np.clip(flat + spread * normal[0], 0.0, 0.985)
    rows["tbp_lv_minorAxisMM"] = minor = _stored(diameter * np.sqrt(1 - flat**2))
    # An ellipse, less what a jagged outline cuts off.
    ragged, spread = _fitted(
        fit["area"], np.log(diameter), np.log(minor / diameter), np.log(tbp["area_perim_ratio"])
    )
    area = _stored(np.pi / 4 * diameter * minor * np.exp(ragged + spread * normal[1]))
    rows["tbp_lv_areaMM2"] = area
    rows["tbp_lv_perimeterMM"] = perimeter = _stored(np.sqrt(tbp["area_perim_ratio"] * area))
    rows["tbp_lv_area_perim_ratio"] = ratio = perimeter**2 / area
    _add_colours(rows, tbp)
    _add_contrasts(facts, rows, rng, normal[2])
    tidy = np.where(tbp["color_std_mean"] == 0, 0.0, tbp["radial_color_std_max"])
    rows["tbp_lv_radial_color_std_max"] = tidy
    colour, spread = _fitted(fit["norm_color"], tbp["color_std_mean"], tidy)
    rows["tbp_lv_norm_color"] = np.where(
        tbp["color_std_mean"] == 0, 0.0, np.clip(colour + spread * normal[3], 0.01, 10)
    )
    border, spread = _fitted(fit["norm_border"], ratio, tbp["symm_2axis"])
    rows["tbp_lv_norm_border"] = np.clip(border + spread * normal[4], 0, 10)
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


def _fitted(relation: list[float], *columns: np.ndarray) -> tuple[np.ndarray, float]:
    """Value of a linear relation (intercept, a weight per column, residual sd), and that sd."""
    intercept, *weights, spread = relation
    total = intercept + sum(
        weight * column for weight, column in zip(weights, columns, strict=True)
    )
    return np.asarray(total), spread


def _add_contrasts(
    facts: Population, rows: pd.DataFrame, rng: np.random.Generator, normal: np.ndarray
) -> None:
    """deltaLB = √(deltaL² + deltaB²) + e, and its ratio to the skin's lightness."""
    shape, scale = facts.relations["excess"]
    excess = rng.gamma(shape, scale, len(rows))
    contrast = np.hypot(rows["tbp_lv_deltaL"], rows["tbp_lv_deltaB"]).to_numpy() + excess
    rows["tbp_lv_deltaLB"] = contrast
    columns = (rows["tbp_lv_Lext"], contrast, rows[SIZE], rows["tbp_lv_Bext"])
    normalised, spread = _fitted(
        facts.relations["contrast"], *(np.log(np.asarray(column)) for column in columns)
    )
    rows["tbp_lv_deltaLBnorm"] = np.exp(normalised + spread * normal)


def is_small(diameter: np.ndarray) -> np.ndarray:
    """Lesions below what the machine selects by itself: they are in the data because a clinician
    tagged them.
    """
    return diameter < LEAST_DIAMETER


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
