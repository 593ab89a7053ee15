"""A small metadata frame with the official columns, for tests of features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from isic.core.schema import NUMERIC, TEST_COLUMNS

_LOCATIONS = {
    "Left Leg - Lower": ("Left Leg", "lower extremity"),
    "Right Arm - Upper": ("Right Arm", "upper extremity"),
    "Torso Back Top Third": ("Torso Back", "posterior torso"),
    "Head & Neck": ("Head & Neck", "head/neck"),
    "Unknown": ("Unknown", None),
}
_HOSPITALS = (
    "Memorial Sloan Kettering Cancer Center",
    "ACEMID MIA",
    "University Hospital of Basel",
)


def lesions(sizes: Sequence[int], seed: int = 0) -> pd.DataFrame:
    """One patient per entry of `sizes` with that many lesions; rows in random order, positive
    measurements, gaps.
    """
    rng = np.random.default_rng(seed)
    count = int(sum(sizes))
    patient = np.repeat(np.arange(len(sizes)), sizes)
    frame = pd.DataFrame({name: rng.lognormal(1, 0.5, count) for name in NUMERIC})
    location = rng.choice(list(_LOCATIONS), count)
    frame = frame.assign(
        isic_id=[f"ISIC_{number:07d}" for number in rng.permutation(count)],
        patient_id=[f"IP_{number:07d}" for number in patient],
        age_approx=np.where(
            rng.random(count) < 0.05, np.nan, 5.0 * (10 + patient % 5 + rng.integers(0, 3, count))
        ),
        sex=rng.choice(["male", "female", None], count),
        anatom_site_general=[_LOCATIONS[name][1] for name in location],
        image_type="TBP tile: close-up",
        tbp_tile_type=rng.choice(["3D: XP", "3D: white"], count),
        tbp_lv_location=location,
        tbp_lv_location_simple=[_LOCATIONS[name][0] for name in location],
        attribution=[_HOSPITALS[number % len(_HOSPITALS)] for number in patient],
        copyright_license="CC-BY",
        tbp_lv_x=rng.normal(0, 200, count),
        tbp_lv_y=rng.normal(1000, 400, count),
        tbp_lv_z=rng.normal(50, 90, count),
    )
    texts = {name: "str" for name in TEST_COLUMNS if name not in NUMERIC}
    return frame.astype(texts)[list(TEST_COLUMNS)].sample(
        frac=1, random_state=seed, ignore_index=True
    )
