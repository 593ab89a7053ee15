"""How many standard deviations a lesion is from the patient's mean: the ugly duckling in numbers."""

from isic.tabular.kernels import zscore
from isic.tabular.relative import kernel_family, measured_features

FAMILY = kernel_family(
    "patient_z",
    "z-score within the patient, of every measurement and formula",
    zscore,
    "({v} - mean({v})) / (sd({v}) + 1e-5) over the patient",
    "sd from the patient's mean: {meaning}",
    tuple(measured_features()),
)
