"""How unusual a lesion is for its patient, in either direction, and in how many respects at once."""

from isic.tabular.extremes import extreme_family

FAMILY = extreme_family("patient_abs_z", "|z| within the patient", (), "patient", "the patient's mean")
