"""Where a lesion stands among the patient's others of the same location."""

from isic.tabular.kernels import rank
from isic.tabular.relative import CORE, kernel_family

FAMILY = kernel_family(
    "location_rank",
    "Percentile rank within patient and location",
    rank,
    "rank({v}) / n over patient × tbp_lv_location, ties averaged",
    "share of the patient's lesions of the same location at or below, 0 to 1: {meaning}",
    CORE,
    keys=("tbp_lv_location",),
)
