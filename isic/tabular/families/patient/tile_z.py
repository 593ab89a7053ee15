"""How far a lesion is from the patient's others of the same lighting."""

from isic.tabular.kernels import zscore
from isic.tabular.relative import COMPARED, kernel_family

FAMILY = kernel_family(
    "tile_z",
    "z-score within patient and lighting",
    zscore,
    "({v} - mean({v})) / (sd({v}) + 1e-5) over patient × tbp_tile_type",
    "sd from the mean of the patient's lesions of the same lighting: {meaning}",
    COMPARED,
    keys=("tbp_tile_type",),
)
