"""How far a lesion is from the patient's others of the same part of the body."""

from isic.tabular.kernels import zscore
from isic.tabular.relative import COMPARED, kernel_family

FAMILY = kernel_family(
    "location_simple_z",
    "z-score within patient and part of the body",
    zscore,
    "({v} - mean({v})) / (sd({v}) + 1e-5) over patient × tbp_lv_location_simple",
    "sd from the mean of the patient's lesions of the same part of the body: {meaning}",
    COMPARED,
    keys=("tbp_lv_location_simple",),
)
