"""Every pair of colour channels, inside, outside and across: differences and ratios."""

from itertools import combinations

from isic.tabular.formulas import formula_family

_CHANNELS = ("A", "B", "C", "H", "L")


def _pairs(suffix: str, where: str) -> list[tuple[str, str, str]]:
    formulas = []
    for a, b in combinations([channel + suffix for channel in _CHANNELS], 2):
        formulas.append(
            (
                f"{a}_minus_{b}",
                f"{a} - {b}",
                f"{a} minus {b}, {where}, L*a*b* units or degrees",
            )
        )
        formulas.append(
            (
                f"{a}_by_{b}",
                f"{a} / ({b} + 1e-5)",
                f"{a} by {b}, {where}, no unit",
            )
        )
    return formulas


def _across() -> list[tuple[str, str, str]]:
    """Differences of channels inside the lesion divided by the same difference outside."""
    return [
        (
            f"{a}_{b}_contrast_ratio",
            f"({a} - {b}) / ({a}ext - {b}ext + 1e-5)",
            f"{a} minus {b} inside by the same outside, no unit",
        )
        for a, b in combinations(_CHANNELS, 2)
    ]


FAMILY = formula_family(
    "colour_pairs",
    "Differences and ratios of all pairs of colour channels",
    (
        *_pairs("", "inside"),
        *_pairs("ext", "outside"),
        *_across(),
        ("A_by_Aext", "A / (Aext + 1e-5)", "a* inside by outside, no unit"),
        ("B_by_Bext", "B / (Bext + 1e-5)", "b* inside by outside, no unit"),
    ),
    measured=False,
)
