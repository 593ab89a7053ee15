"""Size of the lesion."""

from isic.tabular.formulas import formula_family

FAMILY = formula_family(
    "size",
    "Size of the lesion",
    (
        ("log_lesion_area", "log1p(areaMM2)", "log of area in mm² plus 1"),
        ("larger_than_6mm", "1.0 * (diam > 6)", "1 if the largest diameter is over 6 mm"),
        ("perimeter_to_area_ratio", "perimeterMM / areaMM2", "perimeter per area, 1/mm"),
        (
            "area_diameter_ratio",
            "areaMM2 / diam**2",
            "area against the square on the diameter, no unit",
        ),
        ("size_ratio_area", "minorAxisMM / diam * areaMM2", "area shrunk by elongation, mm²"),
        (
            "size_color_contrast_ratio",
            "diam / (deltaLBnorm + 1e-5)",
            "diameter against contrast, mm",
        ),
        (
            "volume_approximation_3d",
            "areaMM2 * sqrt(x**2 + y**2 + z**2)",
            "area times distance from the origin, mm³",
        ),
    ),
)
