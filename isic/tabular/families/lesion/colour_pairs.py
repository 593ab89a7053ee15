"""Every pair of colour channels, inside, outside and across: differences and ratios."""

from itertools import combinations

from isic.tabular.formulas import formula_family

_CHANNELS = ("A", "B", "C", "H", "L")


def _pairs(suffix: str, where: str) -> list[tuple[str, str, str]]:
    found = []
    for one, other in combinations([channel + suffix for channel in _CHANNELS], 2):
        found.append(
            (
                f"{one}_minus_{other}",
                f"{one} - {other}",
                f"{one} minus {other}, {where}, L*a*b* units or degrees",
            )
        )
        found.append(
            (
                f"{one}_by_{other}",
                f"{one} / ({other} + 1e-5)",
                f"{one} by {other}, {where}, no unit",
            )
        )
    return found


def _across() -> list[tuple[str, str, str]]:
    """How a difference of channels inside compares with the same difference outside."""
    return [
        (
            f"{one}_{other}_contrast_ratio",
            f"({one} - {other}) / ({one}ext - {other}ext + 1e-5)",
            f"{one} minus {other} inside by the same outside, no unit",
        )
        for one, other in combinations(_CHANNELS, 2)
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
