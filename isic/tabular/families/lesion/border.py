"""Irregularity of the border."""

from isic.tabular.formulas import formula_family

FAMILY = formula_family(
    "border",
    "Irregularity of the border",
    (
        ("border_complexity", "norm_border + symm_2axis", "irregularity plus asymmetry, no unit"),
        (
            "symmetry_border_consistency",
            "symm_2axis * norm_border",
            "irregularity times asymmetry, no unit",
        ),
        (
            "consistency_symmetry_border",
            "symm_2axis * norm_border / (symm_2axis + norm_border + 1e-5)",
            "half their harmonic mean, no unit",
        ),
        ("border_density", "norm_border / perimeterMM", "irregularity per perimeter, 1/mm"),
        ("border_size_ratio", "norm_border / sqrt(areaMM2)", "irregularity against size, 1/mm"),
        ("border_perimeter", "norm_border * perimeterMM", "irregularity times perimeter, mm"),
        ("border_area", "areaMM2 * norm_border", "irregularity times area, mm²"),
        (
            "border_color_jaggedness",
            "perimeterMM / sqrt(areaMM2) * norm_border * norm_color",
            "jagged, irregular and varied, no unit",
        ),
        (
            "border_color_interaction",
            "norm_border * norm_color",
            "irregular border times varied colour, no unit",
        ),
        (
            "border_color_interaction_2",
            "norm_border * norm_color / (norm_border + norm_color + 1e-5)",
            "half their harmonic mean, no unit",
        ),
    ),
)
