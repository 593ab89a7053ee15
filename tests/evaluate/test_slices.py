"""The slices are the same everywhere."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd

from isic.core.paths import Layout
from isic.evaluate.slice_gains import compare_slices
from isic.evaluate.slices import TONE_METHOD, TONES, skin_tone, slice_levels, slice_masks
from tests.report.conftest import results_of


def test_the_gate_judges_the_lesions_that_the_report_shows_under_the_same_name(
    run_dir: Layout,
) -> None:
    results = results_of(run_dir)
    rows = results.rows.assign(score=results.score, score_champion=0.5)
    shown = {
        (family, name): (int(mask.sum()), int(rows["target"][mask].sum()))
        for family, name, mask in slice_masks(rows)
    }
    gate = {
        (part.group, part.level): (part.n, part.positives)
        for part in compare_slices(rows, 15, 100, 0)
    }
    assert gate == {
        key: counts for key, counts in shown.items() if not key[0].startswith("diagnosis")
    }
    assert len([level for group, level in gate if group == "skin tone (proxy)"]) > 1


def test_skin_tone_is_one_per_patient_and_follows_the_angle() -> None:
    rows = pd.DataFrame(
        {
            "patient_id": ["a", "a", "a", "b"],
            # atan2(20, 10) = 63 degrees, atan2(-20, 10) = -63.
            "tbp_lv_Lext": [70.0, 70.0, 30.0, 30.0],
            "tbp_lv_Bext": [10.0] * 4,
        }
    )
    assert skin_tone(rows).tolist() == ["above 55°"] * 3 + ["up to −30°"]


def test_bands_begin_and_end_where_their_names_say() -> None:
    rows = pd.DataFrame(
        {
            "patient_id": list("abcdefg"),
            "age_approx": [35.0, 40.0, 55.0, 60.0, 70.0, 75.0, np.nan],
            "clin_size_long_diam_mm": [2.49, 2.5, 9.0, 9.0, 9.0, 9.0, 9.0],
            "tbp_lv_Lext": (
                50 + 10 * np.tan(np.radians([56.0, 54.0, 40.0, 27.0, 9.0, -31.0, np.nan]))
            ),
            "tbp_lv_Bext": 10.0,
            **dict.fromkeys(("attribution", "sex", "anatom_site_general", "tbp_tile_type")),
        }
    )
    found = slice_levels(rows)
    ages = ["under 40", "40 to 59", "40 to 59", "60 to 74", "60 to 74", "75 and over", "missing"]
    assert found["age"].tolist() == ages
    assert found["size"].tolist() == ["under 2.5 mm"] + ["2.5 mm and over"] * 6
    tones = [*reversed(TONES), "missing"]
    assert found["skin tone (proxy)"].tolist() == tones
    assert set(found["sex"]) == {"missing"}


def test_bands_are_named_by_their_bounds() -> None:
    bounds = [f"{bound:g}°".replace("-", "−") for bound in TONES.values() if np.isfinite(bound)]
    inner = [f"{low} to {high}" for low, high in pairwise(bounds)]
    assert list(TONES) == [f"up to {bounds[0]}", *inner, f"above {bounds[-1]}"]
    assert "atan2(L* − 50, b*)" in TONE_METHOD
