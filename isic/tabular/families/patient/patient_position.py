"""Where a lesion lies between the patient's smallest and largest value."""

from isic.tabular.kernels import position
from isic.tabular.relative import CORE, kernel_family

FAMILY = kernel_family(
    "patient_position",
    "Position between the patient's extremes",
    position,
    "({v} - min({v})) / (max({v}) - min({v})) over the patient, 0 where constant",
    "0 at the patient's smallest value to 1 at the largest: {meaning}",
    CORE,
)
