"""Difference to the patient's median, in the measurement's own unit."""

from isic.tabular.kernels import from_median
from isic.tabular.relative import CORE, kernel_family

FAMILY = kernel_family(
    "patient_median",
    "Difference to the patient's median",
    from_median,
    "{v} - median({v}) over the patient",
    "minus the patient's median: {meaning}",
    CORE,
)
