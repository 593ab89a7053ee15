"""Where a lesion stands among the patient's lesions, whatever the scale."""

from isic.tabular.kernels import rank
from isic.tabular.relative import COMPARED, kernel_family

FAMILY = kernel_family(
    "patient_rank",
    "Percentile rank within the patient",
    rank,
    "rank({v}) / n over the patient, ties averaged",
    "share of the patient's lesions at or below, 0 to 1: {meaning}",
    COMPARED,
)
