"""What this patient's lesions are like as a whole: the level the relative features subtract."""

from isic.tabular.group_statistics import level_family

FAMILY = level_family(
    "patient_level",
    "Statistics of all lesions of the patient",
    (),
    "the patient",
    ("mean", "sd", "min", "max", "sum", "median", "skew"),
)
