"""Averages over several signs, as in the ABCD rule."""

from isic.tabular.formulas import formula_family

FAMILY = formula_family(
    "composite",
    "Averages over several signs",
    (
        (
            "lesion_severity_index",
            "(norm_border + norm_color + eccentricity) / 3",
            "border, colour and elongation, no unit",
        ),
        (
            "comprehensive_lesion_index",
            "(area_perim_ratio + eccentricity + norm_color + symm_2axis) / 4",
            "border, elongation, colour, asymmetry, no unit",
        ),
        (
            "color_shape_composite_index",
            "(color_std_mean + area_perim_ratio + symm_2axis) / 3",
            "colour, border, asymmetry, no unit",
        ),
    ),
)
