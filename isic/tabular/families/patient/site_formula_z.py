"""What `site_z` leaves out: the formulas against the patient's lesions of the same site."""

from isic.tabular.kernels import zscore
from isic.tabular.relative import formulas_only, kernel_family

FAMILY = kernel_family(
    "site_formula_z",
    "z-score within patient and site, of the formulas and coordinates",
    zscore,
    "({v} - mean({v})) / (sd({v}) + 1e-5) over patient × anatom_site_general",
    "sd from the mean of the patient's lesions of the same site: {meaning}",
    formulas_only(),
    keys=("anatom_site_general",),
)
