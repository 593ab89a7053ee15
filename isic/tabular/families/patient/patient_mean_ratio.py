"""Multiple of the patient's mean. Signed contrasts are left out: their mean may be zero."""

from isic.tabular.kernels import ratio_to_mean
from isic.tabular.relative import CORE, kernel_family

FAMILY = kernel_family(
    "patient_mean_ratio",
    "Ratio to the patient's mean",
    ratio_to_mean,
    "{v} / (mean({v}) + 1e-5) over the patient",
    "as a multiple of the patient's mean: {meaning}",
    tuple(name for name in CORE if not name.startswith("delta") or name.startswith("deltaLB")),
)
