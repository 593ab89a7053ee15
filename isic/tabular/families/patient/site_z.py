"""How far a lesion is from the patient's others of the same site."""

from isic.tabular.kernels import zscore
from isic.tabular.relative import COMPARED, kernel_family

FAMILY = kernel_family(
    "site_z",
    "z-score within patient and site",
    zscore,
    "({v} - mean({v})) / (sd({v}) + 1e-5) over patient × anatom_site_general",
    "sd from the mean of the patient's lesions of the same site: {meaning}",
    COMPARED,
    keys=("anatom_site_general",),
)
