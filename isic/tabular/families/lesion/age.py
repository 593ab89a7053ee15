"""The lesion against the patient's age. Missing where the age is."""

from isic.tabular.formulas import formula_family

FAMILY = formula_family(
    "age",
    "The lesion against the patient's age",
    (
        ("size_age_interaction", "diam * age", "diameter times age, mm × years"),
        ("normalized_lesion_size", "diam / age", "diameter per year of age, mm/year"),
        ("area_age_ratio", "areaMM2 / age", "area per year of age, mm²/year"),
        ("area_age_interaction", "age * areaMM2", "area times age, mm² × years"),
        ("age_color_interaction", "age * norm_color", "colour variation times age, years"),
        (
            "age_normalized_nevi_confidence",
            "nevi_confidence / age",
            "confidence in a nevus per year of age, 1/year",
        ),
        (
            "age_normalized_nevi_confidence_2",
            "sqrt(diam**2 + age**2)",
            "length of (diameter, age); holds no confidence, the public name misleads",
        ),
        (
            "age_size_symmetry_index",
            "age * diam * symm_2axis",
            "age, size and asymmetry, mm × years",
        ),
        (
            "index_age_size_symmetry",
            "age * areaMM2 * symm_2axis",
            "age, area and asymmetry, mm² × years",
        ),
    ),
)
