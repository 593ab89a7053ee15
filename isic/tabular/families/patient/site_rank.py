"""Where a lesion stands among the patient's others of the same site."""

from isic.tabular.kernels import rank
from isic.tabular.relative import CORE, kernel_family

FAMILY = kernel_family(
    "site_rank",
    "Percentile rank within patient and site",
    rank,
    "rank({v}) / n over patient × anatom_site_general, ties averaged",
    "share of the patient's lesions of the same site at or below, 0 to 1: {meaning}",
    CORE,
    keys=("anatom_site_general",),
)
