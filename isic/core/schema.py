"""The official columns of SLICE-3D: order, types, meaning of the train-only ones, and the
identities between them.

Source: the competition's files (55 training columns, 44 test columns); identities checked on real
rows, residuals below 3e-5 (Kurtansky et al., Scientific Data 11, 884, 2024, describes the columns).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

ID = "isic_id"
PATIENT = "patient_id"
TARGET = "target"
#: Column of out-of-fold scores: log-odds of the members of one seed (seed_0, seed_1, …).
SEED_COLUMN = "seed_"
#: Of the stacker without image columns: column of its out-of-fold scores, folder in a bundle.
FEATURES_ONLY = "features_only"

#: The 44 columns of test-metadata.csv, in file order.
TEST_COLUMNS: tuple[str, ...] = (
    "isic_id",
    "patient_id",
    "age_approx",
    "sex",
    "anatom_site_general",
    "clin_size_long_diam_mm",
    "image_type",
    "tbp_tile_type",
    "tbp_lv_A",
    "tbp_lv_Aext",
    "tbp_lv_B",
    "tbp_lv_Bext",
    "tbp_lv_C",
    "tbp_lv_Cext",
    "tbp_lv_H",
    "tbp_lv_Hext",
    "tbp_lv_L",
    "tbp_lv_Lext",
    "tbp_lv_areaMM2",
    "tbp_lv_area_perim_ratio",
    "tbp_lv_color_std_mean",
    "tbp_lv_deltaA",
    "tbp_lv_deltaB",
    "tbp_lv_deltaL",
    "tbp_lv_deltaLB",
    "tbp_lv_deltaLBnorm",
    "tbp_lv_eccentricity",
    "tbp_lv_location",
    "tbp_lv_location_simple",
    "tbp_lv_minorAxisMM",
    "tbp_lv_nevi_confidence",
    "tbp_lv_norm_border",
    "tbp_lv_norm_color",
    "tbp_lv_perimeterMM",
    "tbp_lv_radial_color_std_max",
    "tbp_lv_stdL",
    "tbp_lv_stdLExt",
    "tbp_lv_symm_2axis",
    "tbp_lv_symm_2axis_angle",
    "tbp_lv_x",
    "tbp_lv_y",
    "tbp_lv_z",
    "attribution",
    "copyright_license",
)

#: Columns of train-metadata.csv that the test file lacks: they leak the diagnosis and never reach a
#: feature.
TRAIN_ONLY: tuple[str, ...] = (
    "target",
    "lesion_id",
    "iddx_full",
    "iddx_1",
    "iddx_2",
    "iddx_3",
    "iddx_4",
    "iddx_5",
    "mel_mitotic_index",
    "mel_thick_mm",
    "tbp_lv_dnn_lesion_confidence",
)

#: The 55 columns of train-metadata.csv, in file order: the target comes second, the other
#: train-only ones last.
TRAIN_COLUMNS: tuple[str, ...] = ("isic_id", "target", *TEST_COLUMNS[1:], *TRAIN_ONLY[1:])

#: Text columns among the 44.
TEXT: tuple[str, ...] = (
    "isic_id",
    "patient_id",
    "sex",
    "anatom_site_general",
    "image_type",
    "tbp_tile_type",
    "tbp_lv_location",
    "tbp_lv_location_simple",
    "attribution",
    "copyright_license",
)

#: Text columns among the train-only ones.
TRAIN_ONLY_TEXT: tuple[str, ...] = (
    "lesion_id",
    "iddx_full",
    "iddx_1",
    "iddx_2",
    "iddx_3",
    "iddx_4",
    "iddx_5",
    "mel_mitotic_index",
)

#: Categories a model may use. `image_type` is constant and `copyright_license` a function of
#: `attribution`.
CATEGORICAL: tuple[str, ...] = (
    "sex",
    "anatom_site_general",
    "tbp_tile_type",
    "tbp_lv_location",
    "tbp_lv_location_simple",
    "attribution",
)

#: The measured columns of the 44.
NUMERIC: tuple[str, ...] = tuple(column for column in TEST_COLUMNS if column not in TEXT)

#: Columns of the 44 with missing values in the official files; all others are complete.
MAY_BE_MISSING: tuple[str, ...] = ("age_approx", "sex", "anatom_site_general")

#: Largest absolute residual of the exact identities. Relative tolerances fail where deltas pass
#: through zero.
IDENTITY_TOLERANCE = 5e-5

#: Identities within the tolerance above: column -> its formula from the others.
IDENTITIES: dict[str, Callable[[pd.DataFrame], pd.Series]] = {
    "tbp_lv_C": lambda rows: np.hypot(rows["tbp_lv_A"], rows["tbp_lv_B"]),
    "tbp_lv_Cext": lambda rows: np.hypot(rows["tbp_lv_Aext"], rows["tbp_lv_Bext"]),
    "tbp_lv_H": lambda rows: np.degrees(np.arctan2(rows["tbp_lv_B"], rows["tbp_lv_A"])),
    "tbp_lv_Hext": lambda rows: np.degrees(np.arctan2(rows["tbp_lv_Bext"], rows["tbp_lv_Aext"])),
    "tbp_lv_deltaA": lambda rows: rows["tbp_lv_A"] - rows["tbp_lv_Aext"],
    "tbp_lv_deltaB": lambda rows: rows["tbp_lv_B"] - rows["tbp_lv_Bext"],
    "tbp_lv_deltaL": lambda rows: rows["tbp_lv_L"] - rows["tbp_lv_Lext"],
    "tbp_lv_area_perim_ratio": lambda rows: (
        rows["tbp_lv_perimeterMM"] ** 2 / rows["tbp_lv_areaMM2"]
    ),
}
