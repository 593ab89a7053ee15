"""What a tile shows, as one record per row: measurements turned into image colours, and traits no
column tells.

The step from table to picture was fitted on real tiles (`tiles` in the population file): under
white light a tile shows the measured colours, tiles of type XP are lighter and shift with the
patient; the centre of a lesion differs from the skin by more than the mean over its area. What
the picture adds follows what the columns show in part: a lesion that its columns hide is
often plain in its tile too.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import ndtr

from isic.data.sample.diagnosis import CANCERS, family
from isic.data.sample.measure import is_small
from isic.data.sample.population import Population
from isic.data.sample.rows import Sample

#: Side of real tiles in pixels at these quantiles (6,478 tiles).
_SIDES = (
    [0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1],
    [51, 97, 105, 117, 127, 137, 153, 177, 239],
)

#: Chance that a tile shows a sign, per kind of lesion. None of them is in a column: this is what
#: only images tell.
SIGNS = ("dark_blots", "veil", "scale", "vessels", "halo", "ulcer", "ink")
_CHANCES = {
    "benign": (0.06, 0.01, 0.03, 0.03, 0.05, 0.004, 0.002),
    "biopsied": (0.25, 0.05, 0.12, 0.08, 0.12, 0.02, 0.05),
    "lookalike": (0.25, 0.05, 0.12, 0.08, 0.12, 0.02, 0.01),
    "melanoma": (0.84, 0.39, 0.14, 0.11, 0.21, 0.06, 0.10),
    "basal": (0.11, 0.08, 0.42, 0.63, 0.70, 0.31, 0.10),
    "squamous": (0.07, 0.04, 0.84, 0.28, 0.77, 0.17, 0.10),
}

#: How strongly the signs of one tile come together: correlation of each with the picture's latent.
_TOGETHER = 0.9

#: One tile's record: what `render` needs, in this order.
RECORD = np.dtype(
    [
        ("side", np.int32),
        ("skin", np.float32, 3),
        ("contrast", np.float32, 3),
        ("long_mm", np.float32),
        ("short_mm", np.float32),
        ("border", np.float32),
        ("asymmetry", np.float32),
        ("angle", np.float32),
        ("spread_l", np.float32),
        ("spread_ab", np.float32),
        ("rings", np.float32),
        ("texture", np.float32),
        ("creases", np.float32),
        ("grain_turn", np.int32),
        ("freckles", np.float32),
        ("hair", np.float32),
        ("blur", np.float32),
        ("neighbours", np.float32),
        ("halo_mm", np.float32),
        ("signs", np.bool_, len(SIGNS)),
    ]
)


def draw_looks(facts: Population, rng: np.random.Generator, sample: Sample) -> np.ndarray:
    """One `RECORD` per row of the sample (n,); the tiles of a patient share skin, hair and
    camera.
    """
    frame, owner = sample.frame, sample.owner
    n = len(frame)
    looks = np.zeros(n, dtype=RECORD)
    patients = int(owner.max()) + 1
    camera = rng.normal(0, 0.05, patients)[owner]
    looks["side"] = np.rint(np.interp(rng.random(n), *_SIDES) * np.exp(camera)).clip(51, 239)
    looks["skin"], looks["contrast"] = _colours(facts, rng, frame, owner, patients)
    looks["long_mm"] = frame["clin_size_long_diam_mm"]
    looks["short_mm"] = frame["tbp_lv_minorAxisMM"]
    looks["border"] = frame["tbp_lv_norm_border"] / 10
    looks["asymmetry"] = frame["tbp_lv_symm_2axis"]
    looks["angle"] = rng.uniform(0, np.pi, n)
    looks["spread_l"] = frame["tbp_lv_stdL"]
    looks["spread_ab"] = frame["tbp_lv_color_std_mean"]
    looks["rings"] = frame["tbp_lv_radial_color_std_max"]
    # The column's tail comes from folds and clothing in view, not from coarser grain.
    looks["texture"] = np.minimum(
        frame["tbp_lv_stdLExt"], 2.2 + 0.4 * (frame["tbp_lv_stdLExt"] - 2.2)
    )
    looks["creases"] = np.maximum(rng.normal(0.3, 0.5, patients)[owner] + rng.normal(0, 0.3, n), 0)
    looks["grain_turn"] = rng.integers(0, 8, n)
    damage = np.abs(rng.standard_normal(patients))
    looks["freckles"] = damage[owner] * np.where(
        frame["anatom_site_general"] == "lower extremity", 0.7, 1.0
    )
    looks["hair"] = _hair(rng, frame, owner, patients)
    looks["blur"] = np.exp(rng.normal(-0.8, 0.35, patients)[owner] + rng.normal(0, 0.2, n))
    looks["neighbours"] = rng.gamma(0.7, 1.0, patients)[owner]
    looks["signs"] = _signs(rng, frame, sample.visibility, facts.visibility.picture)
    core = 0.5 * frame["clin_size_long_diam_mm"].to_numpy()
    small = is_small(frame["clin_size_long_diam_mm"].to_numpy())
    looks["halo_mm"] = np.where(small, rng.uniform(1.2, 3.4, n), core + rng.uniform(0.4, 2.2, n))
    return looks


def _colours(
    facts: Population,
    rng: np.random.Generator,
    frame: pd.DataFrame,
    owner: np.ndarray,
    patients: int,
) -> tuple[np.ndarray, np.ndarray]:
    outside = frame[["tbp_lv_Lext", "tbp_lv_Aext", "tbp_lv_Bext"]].to_numpy()
    difference = frame[["tbp_lv_deltaL", "tbp_lv_deltaA", "tbp_lv_deltaB"]].to_numpy()
    shared, single = rng.standard_normal((patients, 3))[owner], rng.standard_normal((len(frame), 3))
    skin, contrast = np.empty_like(outside), np.empty_like(outside)
    tile_type = frame["tbp_tile_type"].to_numpy()
    for name, fit in facts.tiles.items():
        rows = tile_type == name
        weights = np.asarray(fit["skin"])
        residual = (0.8 * shared[rows] + 0.6 * single[rows]) * np.asarray(fit["residual"])
        skin[rows] = weights[:, 0] + outside[rows] @ weights[:, 1:].T + residual
        contrast[rows] = difference[rows] * np.asarray(fit["contrast"])
    skin[:, 0] = skin[:, 0].clip(18, 88)
    return skin, contrast


def _hair(
    rng: np.random.Generator, frame: pd.DataFrame, owner: np.ndarray, patients: int
) -> np.ndarray:
    """Mean number of hairs in the tile: by patient, more in men, on limbs and the front."""
    person = rng.gamma(0.45, 12.0, patients)[owner]
    sex = np.where(frame["sex"] == "female", 0.3, 1.0)
    place = (
        frame["tbp_lv_location_simple"]
        .map({"Torso Back": 0.5, "Head & Neck": 0.6})
        .fillna(1.2)
        .to_numpy()
    )
    return np.minimum(person * sex * place, 45)


def _signs(
    rng: np.random.Generator, frame: pd.DataFrame, visibility: np.ndarray, correlation: float
) -> np.ndarray:
    """Which signs each tile shows (n, signs): more of them where the row is visible too."""
    full = frame["iddx_full"].to_numpy(dtype=object)
    kinds = np.full(len(frame), "benign", dtype=object)
    kinds[~np.isnan(visibility)] = "lookalike"
    kinds[full != "Benign"] = "biopsied"
    malignant = np.flatnonzero(frame["target"].to_numpy() == 1)
    kinds[malignant] = [family(full[row]) for row in malignant]
    chances = np.empty((len(frame), len(SIGNS)), dtype=np.float32)
    for kind in ("benign", "biopsied", "lookalike", *CANCERS):
        chances[kinds == kind] = _CHANCES[kind]
    # Tiny outlines are mostly the core of a larger red patch that the machine missed and a
    # clinician tagged.
    small = is_small(frame["clin_size_long_diam_mm"].to_numpy())
    chances[small, SIGNS.index("halo")] = np.where(kinds[small] == "benign", 0.25, 0.85)
    picture = rng.standard_normal(len(frame))
    striking = ~np.isnan(visibility)
    picture[striking] *= np.sqrt(1 - correlation**2)
    picture[striking] += correlation * visibility[striking]
    level = _TOGETHER * picture[:, None] + np.sqrt(1 - _TOGETHER**2) * rng.standard_normal(
        chances.shape
    )
    return ndtr(-level) < chances
