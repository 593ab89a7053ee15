"""Colour of the lesion against the skin around it."""

from isic.tabular.formulas import formula_family

FAMILY = formula_family(
    "colour",
    "Colour of the lesion against the skin around it",
    (
        ("hue_contrast", "abs(H - Hext)", "hue away from the skin's, degrees"),
        ("hue_difference", "H - Hext", "hue minus the skin's, degrees"),
        ("mean_hue_difference", "(H + Hext) / 2", "mean hue of lesion and skin, degrees"),
        (
            "relative_hue_difference",
            "abs(H - Hext) / (H + Hext)",
            "hue contrast against the hues' sum, no unit",
        ),
        (
            "lesion_color_difference",
            "sqrt(deltaA**2 + deltaB**2 + deltaL**2)",
            "colour distance to the skin (ΔE), L*a*b* units",
        ),
        (
            "overall_color_difference",
            "(deltaA + deltaB + deltaL) / 3",
            "mean signed colour difference, L*a*b* units",
        ),
        (
            "color_contrast_index",
            "deltaA + deltaB + deltaL + deltaLBnorm",
            "summed signed contrasts, L*a*b* units",
        ),
        (
            "color_range",
            "abs(L - Lext) + abs(A - Aext) + abs(B - Bext)",
            "summed absolute contrasts, L*a*b* units",
        ),
        (
            "color_difference_AB",
            "sqrt(deltaA**2 + deltaB**2)",
            "distance to the skin without lightness, L*a*b* units",
        ),
        (
            "color_contrast_ratio",
            "deltaLBnorm / (L + 1e-5)",
            "normalised contrast against lightness, no unit",
        ),
        ("abs_deltaA", "abs(deltaA)", "absolute a* contrast, L*a*b* units"),
        ("abs_deltaB", "abs(deltaB)", "absolute b* contrast, L*a*b* units"),
        (
            "abs_delta_size",
            "(abs(deltaA) + abs(deltaB) + abs(deltaL)) * diam",
            "summed absolute contrast times diameter, mm",
        ),
        ("chroma_difference", "C - Cext", "chroma minus the skin's, L*a*b* units"),
        ("chroma_ratio", "C / (Cext + 1e-5)", "chroma against the skin's, no unit"),
        ("lightness_ratio", "L / (Lext + 1e-5)", "lightness against the skin's, no unit"),
        ("hue_ratio", "H / (Hext + 1e-5)", "hue against the skin's, no unit"),
        ("color_geometric_mean", "cbrt(L * A * B)", "geometric mean of L*, a*, b*, L*a*b* units"),
    ),
)
