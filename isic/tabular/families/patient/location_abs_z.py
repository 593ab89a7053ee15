"""How unusual a lesion is for its patient's location, in either direction, and in how many respects at once."""

from isic.tabular.extremes import extreme_family

FAMILY = extreme_family(
    "location_abs_z",
    "|z| within patient and location",
    ("tbp_lv_location",),
    "patient × tbp_lv_location",
    "the mean of the patient's lesions of the same location",
)
