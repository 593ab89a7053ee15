"""What `location_tile_z` leaves out: the formulas against the patient's lesions of the same location and lighting."""

from isic.tabular.kernels import zscore
from isic.tabular.relative import formulas_only, kernel_family

FAMILY = kernel_family(
    "location_tile_formula_z",
    "z-score within patient, location and lighting, of the formulas and coordinates",
    zscore,
    "({v} - mean({v})) / (sd({v}) + 1e-5) over patient × tbp_lv_location × tbp_tile_type",
    "sd from the mean of the patient's lesions of the same location and lighting: {meaning}",
    formulas_only(),
    keys=("tbp_lv_location", "tbp_tile_type"),
)
