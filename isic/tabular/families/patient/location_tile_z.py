"""How far a lesion is from the patient's others of the same location and lighting."""

from isic.tabular.kernels import zscore
from isic.tabular.relative import COMPARED, kernel_family

FAMILY = kernel_family(
    "location_tile_z",
    "z-score within patient, location and lighting",
    zscore,
    "({v} - mean({v})) / (sd({v}) + 1e-5) over patient × tbp_lv_location × tbp_tile_type",
    "sd from the mean of the patient's lesions of the same location and lighting: {meaning}",
    COMPARED,
    keys=("tbp_lv_location", "tbp_tile_type"),
)
