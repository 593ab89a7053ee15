"""Outline of the lesion apart from its size."""

from isic.tabular.formulas import formula_family

FAMILY = formula_family(
    "shape",
    "Outline of the lesion apart from its size",
    (
        (
            "lesion_size_ratio",
            "minorAxisMM / diam",
            "roundness, smallest by largest diameter, no unit",
        ),
        ("lesion_shape_index", "areaMM2 / perimeterMM**2", "compactness, no unit"),
        (
            "shape_complexity_index",
            "norm_border + symm_2axis + areaMM2 / perimeterMM**2",
            "irregular border plus compactness, no unit",
        ),
        ("asymmetry_ratio", "symm_2axis / perimeterMM", "asymmetry per perimeter, 1/mm"),
        ("asymmetry_area_ratio", "symm_2axis / areaMM2", "asymmetry per area, 1/mm²"),
        (
            "asymmetry_eccentricity",
            "symm_2axis * eccentricity",
            "asymmetric and elongated, no unit",
        ),
        (
            "eccentric_symmetry",
            "eccentricity * (1 - symm_2axis)",
            "elongated but symmetric, no unit",
        ),
        (
            "symmetry_perimeter_interaction",
            "symm_2axis * perimeterMM",
            "asymmetry times perimeter, mm",
        ),
        (
            "shape_color_consistency",
            "eccentricity * color_std_mean",
            "elongated and irregular in colour, L*a*b* units",
        ),
        (
            "symmetric_color_irregularity",
            "(1 - symm_2axis) * color_std_mean",
            "symmetric but irregular in colour, L*a*b* units",
        ),
    ),
)
