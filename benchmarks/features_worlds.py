"""Two simulated populations that show the use of patient-relative features.

In the `absolute` world patients do not differ, and malignant lesions are dark and large; patients
have few lesions, so their mean has little information. In the `relative` world patients differ in
colour and size of all their lesions, and a malignant lesion differs from those of its patient only.
Half of the patients have no malignant lesion.
"""

from __future__ import annotations

from typing import Any

import features_ladder as ladder
import numpy as np
import pandas as pd

from isic.core.folds import make_folds
from isic.core.metric import paired_difference, pauc
from isic.core.schema import NUMERIC, PATIENT, TARGET, TEST_COLUMNS
from isic.tabular import build_features

_LESION = ["raw", "colour", "size"]
_RELATIVE = ["patient_z", "patient_rank", "patient_median"]
#: World → patients, lesions of each, and sd of the patients' means in sd of the lesions of a
#: patient.
_WORLDS = {"absolute": (2400, 5, 0.0), "relative": (120, 100, 3.0)}
#: Shift of a malignant lesion in two measurements, in the same unit.
_OFF = 2.5


def population(world: str, seed: int) -> pd.DataFrame:
    """A metadata frame of 12,000 lesions with target, about 1 % of them malignant."""
    patients, lesions, apart = _WORLDS[world]
    rng = np.random.default_rng(seed)
    count = patients * lesions
    patient = np.repeat(np.arange(patients), lesions)
    target = (rng.random(count) < 0.02) & (patient % 2 == 0)
    signs = (
        apart * rng.normal(size=(patients, 2))[patient]
        + rng.normal(size=(count, 2))
        + _OFF * target[:, None]
    )
    frame = pd.DataFrame({name: rng.normal(10, 1, count) for name in NUMERIC})
    frame = frame.assign(
        isic_id=[f"ISIC_{index:07d}" for index in range(count)],
        patient_id=[f"IP_{index:07d}" for index in patient],
        age_approx=60.0,
        sex="male",
        anatom_site_general="head/neck",
        image_type="TBP tile: close-up",
        tbp_tile_type="3D: XP",
        tbp_lv_location="Head & Neck",
        tbp_lv_location_simple="Head & Neck",
        attribution="ACEMID MIA",
        copyright_license="CC-0",
        tbp_lv_H=50 - 3 * signs[:, 0],
        clin_size_long_diam_mm=20 + 0.5 * signs[:, 1],
    )
    texts = {name: "str" for name in TEST_COLUMNS if name not in NUMERIC}
    return frame.astype(texts)[list(TEST_COLUMNS)].assign(target=target.astype(np.int64))


def compare(seeds: int) -> dict[str, Any]:
    """pAUC of lesion and of patient-relative families in both worlds, and the paired gain of the
    rightful winner.
    """
    results: dict[str, Any] = {}
    won: dict[str, list[float]] = {}
    for world, winner in (("absolute", "lesion"), ("relative", "relative")):
        frame = population(world, seed=5)
        folds = make_folds(frame, 5, seed=0)
        features = build_features(frame, [*_LESION, *_RELATIVE])
        scores = {
            "lesion": ladder.out_of_fold(features, folds, _LESION, seeds),
            "relative": ladder.out_of_fold(features, folds, _RELATIVE, seeds),
            "both": ladder.out_of_fold(features, folds, [*_LESION, *_RELATIVE], seeds),
        }
        results[world] = {
            name: round(pauc(frame[TARGET], score), 4) for name, score in scores.items()
        }
        loser = "relative" if winner == "lesion" else "lesion"
        gain = paired_difference(frame[TARGET], scores[winner], scores[loser], frame[PATIENT], 500)
        won[f"{winner}_families_win_in_the_{world}_world"] = [round(value, 4) for value in gain]
    return {**results, "winners": won}
