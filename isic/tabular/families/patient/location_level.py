"""What this patient's lesions at one location are like as a whole."""

from isic.tabular.group_statistics import level_family

FAMILY = level_family(
    "location_level",
    "Statistics of the patient's lesions of the same location",
    ("tbp_lv_location",),
    "patient × tbp_lv_location",
    ("mean", "sd", "min", "max", "sum", "median", "skew"),
)
