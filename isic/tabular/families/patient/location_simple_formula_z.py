"""What `location_simple_z` leaves out: the formulas against the patient's lesions of the same part of the body."""

from isic.tabular.kernels import zscore
from isic.tabular.relative import formulas_only, kernel_family

FAMILY = kernel_family(
    "location_simple_formula_z",
    "z-score within patient and part of the body, of the formulas and coordinates",
    zscore,
    "({v} - mean({v})) / (sd({v}) + 1e-5) over patient × tbp_lv_location_simple",
    "sd from the mean of the patient's lesions of the same part of the body: {meaning}",
    formulas_only(),
    keys=("tbp_lv_location_simple",),
)
