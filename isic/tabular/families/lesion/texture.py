"""Variation of colour inside the lesion."""

from isic.tabular.formulas import formula_family

FAMILY = formula_family(
    "texture",
    "Variation of colour inside the lesion and of the skin around",
    (
        (
            "color_uniformity",
            "color_std_mean / (radial_color_std_max + 1e-5)",
            "irregularity against radial asymmetry, no unit",
        ),
        (
            "color_consistency",
            "stdL / (Lext + 1e-5)",
            "sd of lightness against the skin's lightness, no unit",
        ),
        (
            "consistency_color",
            "stdL * Lext / (stdL + Lext + 1e-5)",
            "half the harmonic mean of both, L*a*b* units",
        ),
        (
            "color_variance_ratio",
            "color_std_mean / (stdLExt + 1e-5)",
            "irregularity against the skin's, no unit",
        ),
        (
            "lightness_variance_ratio",
            "stdL / (stdLExt + 1e-5)",
            "sd of lightness against the skin's, no unit",
        ),
        (
            "hue_color_std_interaction",
            "H * color_std_mean",
            "hue times irregularity, degrees × L*a*b* units",
        ),
        (
            "color_asymmetry_index",
            "radial_color_std_max * symm_2axis",
            "asymmetry of colour and border, L*a*b* units",
        ),
        (
            "lesion_visibility_score",
            "deltaLBnorm + norm_color",
            "contrast plus colour variation, no unit",
        ),
        (
            "color_variation_intensity",
            "norm_color * deltaLBnorm",
            "colour variation times contrast, no unit",
        ),
        (
            "color_variation_index",
            "color_std_mean * radial_color_std_max",
            "both irregularities, squared L*a*b* units",
        ),
        ("texture_contrast", "stdL / (L + 1e-5)", "coefficient of variation of lightness, no unit"),
        ("norm_L", "(stdL + color_std_mean) / (L + 1e-5)", "variation against lightness, no unit"),
        ("norm_A", "(stdL + color_std_mean) / (abs(A) + 1e-5)", "variation against |a*|, no unit"),
        ("norm_B", "(stdL + color_std_mean) / (abs(B) + 1e-5)", "variation against |b*|, no unit"),
        (
            "color_size_ratio",
            "norm_color / log1p(diam)",
            "colour variation against log diameter, no unit",
        ),
    ),
)
