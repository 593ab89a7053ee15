"""Short names of official columns, without their prefix, as in formulas and derived columns."""

from __future__ import annotations

from isic.core.schema import NUMERIC

_SPECIAL = {"clin_size_long_diam_mm": "diam", "age_approx": "age"}


def short(column: str) -> str:
    """`tbp_lv_H` → `H`, `clin_size_long_diam_mm` → `diam`, `age_approx` → `age`; else `column`."""
    return _SPECIAL.get(column, column.removeprefix("tbp_lv_"))


#: Short name → official column, for the measurements.
OFFICIAL: dict[str, str] = {short(column): column for column in NUMERIC}

#: What each measurement is, with its unit. Colours are CIE L*a*b*; `ext` is the skin around the
#: lesion.
MEANING: dict[str, str] = {
    "age": "age at imaging, years, in steps of 5",
    "diam": "largest diameter, mm",
    "A": "a* inside the lesion (green to red), L*a*b* units",
    "Aext": "a* of the skin around, L*a*b* units",
    "B": "b* inside the lesion (blue to yellow), L*a*b* units",
    "Bext": "b* of the skin around, L*a*b* units",
    "C": "chroma inside the lesion, L*a*b* units",
    "Cext": "chroma of the skin around, L*a*b* units",
    "H": "hue angle inside the lesion, degrees (25 red to 75 brown)",
    "Hext": "hue angle of the skin around, degrees",
    "L": "lightness inside the lesion, 0 black to 100 white",
    "Lext": "lightness of the skin around, 0 black to 100 white",
    "areaMM2": "area, mm²",
    "area_perim_ratio": "jaggedness of the border, perimeter²/area, no unit",
    "color_std_mean": "irregularity of colour inside, L*a*b* units",
    "deltaA": "a* inside minus outside, L*a*b* units",
    "deltaB": "b* inside minus outside, L*a*b* units",
    "deltaL": "lightness inside minus outside, L*a*b* units",
    "deltaLB": "combined contrast of lightness and b*, L*a*b* units",
    "deltaLBnorm": "contrast to the skin, normalised by its lightness, no unit",
    "eccentricity": "eccentricity, 0 circle to 1 line",
    "minorAxisMM": "smallest diameter, mm",
    "nevi_confidence": "a network's confidence that the lesion is a nevus, 0 to 100",
    "norm_border": "irregularity of the border, 0 to 10",
    "norm_color": "variation of colour, 0 to 10",
    "perimeterMM": "perimeter, mm",
    "radial_color_std_max": "asymmetry of colour over concentric rings, L*a*b* units",
    "stdL": "sd of lightness inside, L*a*b* units",
    "stdLExt": "sd of lightness of the skin around, L*a*b* units",
    "symm_2axis": "asymmetry of the border about its second axis, 0 symmetric to 1",
    "symm_2axis_angle": "angle of that axis, degrees",
    "x": "position from left (negative) to right, mm",
    "y": "height on the body, mm",
    "z": "position from front (negative) to back, mm",
}
