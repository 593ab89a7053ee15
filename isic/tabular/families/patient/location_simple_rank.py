"""Where a lesion stands among the patient's others of the same part of the body."""

from isic.tabular.kernels import rank
from isic.tabular.relative import CORE, kernel_family

FAMILY = kernel_family(
    "location_simple_rank",
    "Percentile rank within patient and part of the body",
    rank,
    "rank({v}) / n over patient × tbp_lv_location_simple, ties averaged",
    "share of the patient's lesions of the same part of the body at or below, 0 to 1: {meaning}",
    CORE,
    keys=("tbp_lv_location_simple",),
)
