"""Share of the patient's largest value. Signed contrasts are left out: their largest may be zero."""

from isic.tabular.kernels import ratio_to_max
from isic.tabular.relative import CORE, kernel_family

FAMILY = kernel_family(
    "patient_ratio",
    "Ratio to the patient's largest value",
    ratio_to_max,
    "{v} / (max({v}) + 1e-5) over the patient",
    "as a share of the patient's largest value: {meaning}",
    tuple(name for name in CORE if not name.startswith("delta") or name.startswith("deltaLB")),
)
