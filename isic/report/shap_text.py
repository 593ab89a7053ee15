"""Texts of SHAP values, grouped by clinical sign.

Hundreds of columns measure a dozen signs (raw, relative to the patient's other lesions, in
products). A group sums the SHAP values of all columns of a sign. Its text gives the measurements
with the largest share, with their percentile among all lesions and their rank among the patient's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from isic.stack.encoder import plain
from isic.stack.training_data import FITTED, IMAGE_FAMILY
from isic.tabular import feature_families
from isic.tabular.names import OFFICIAL, short

if TYPE_CHECKING:
    from isic.stack.model import Stack

#: Minimum log-odds of each adverb; "slightly" below the last.
_STRENGTHS = ((1.5, "strongly"), (0.5, "clearly"), (0.15, "mildly"))
#: Maximum measurements per group, and their minimum share of the first one's log-odds.
_NAMED, _SHARE = 2, 0.3

_IMAGE = "the image"
#: Group -> its measurements. Formulas of several measurements are summed but not listed.
_MEASUREMENTS: dict[str, tuple[str, ...]] = {
    "colour of the lesion": ("A", "B", "C", "H", "L"),
    "unevenness of colour": ("stdL", "norm_color", "color_std_mean", "radial_color_std_max"),
    "colour of the skin around": ("Aext", "Bext", "Cext", "Hext", "Lext", "stdLExt"),
    "contrast to the skin": ("deltaA", "deltaB", "deltaL", "deltaLB", "deltaLBnorm"),
    "size": ("areaMM2", "minorAxisMM", "diam", "perimeterMM"),
    "size and colour for the age": ("age",),
    "shape and border": ("eccentricity", "symm_2axis", "norm_border", "area_perim_ratio"),
    "position on the body": ("x", "y", "z", "anatom_site_general", "location", "location_simple"),
    "sex": ("sex",),
    "similarity to a nevus": ("nevi_confidence",),
    "institution and lighting": ("tbp_tile_type", "attribution"),
}
#: Feature family -> group of its columns that are not of a single measurement.
_FAMILY_GROUPS = {
    "age": "size and colour for the age",
    "border": "shape and border",
    "colour": "contrast to the skin",
    "colour_pairs": "colour of the lesion",
    "combined": "position on the body",
    "composite": "several signs combined",
    "location": "position on the body",
    "raw": "shape and border",  # the angle of the axis of asymmetry
    "shape": "shape and border",
    "size": "size",
    "texture": "unevenness of colour",
}
#: Measurement -> clinical name and the unit after the number.
_CLINICAL_NAMES: dict[str, tuple[str, str]] = {
    "A": ("redness inside the lesion (a*)", ""),
    "B": ("yellow-brown inside the lesion (b*)", ""),
    "C": ("strength of colour inside the lesion", ""),
    "H": ("hue inside the lesion (lower is redder, higher browner)", "°"),
    "L": ("lightness inside the lesion", ""),
    "Aext": ("redness of the skin around (a*)", ""),
    "Bext": ("yellow-brown of the skin around (b*)", ""),
    "Cext": ("strength of colour of the skin around", ""),
    "Hext": ("hue of the skin around (lower is redder, higher browner)", "°"),
    "Lext": ("lightness of the skin around", ""),
    "stdL": ("unevenness of lightness inside the lesion", ""),
    "stdLExt": ("unevenness of the skin around", ""),
    "norm_color": ("variety of colours", " of 10"),
    "color_std_mean": ("irregularity of colour", ""),
    "radial_color_std_max": ("asymmetry of colour", ""),
    "deltaA": ("redness against the skin around", ""),
    "deltaB": ("yellow-brown against the skin around", ""),
    "deltaL": ("lightness against the skin around (negative is darker)", ""),
    "deltaLB": ("contrast to the skin around", ""),
    "deltaLBnorm": ("contrast to the skin around, for its lightness", ""),
    "areaMM2": ("area", " mm²"),
    "minorAxisMM": ("smallest diameter", " mm"),
    "diam": ("largest diameter", " mm"),
    "perimeterMM": ("perimeter", " mm"),
    "eccentricity": ("elongation", " (0 round, 1 a line)"),
    "symm_2axis": ("asymmetry", " (0 to 1)"),
    "norm_border": ("irregularity of the border", " of 10"),
    "area_perim_ratio": ("jaggedness of the border", ""),
    "x": ("position from left (negative) to right", " mm"),
    "y": ("height on the body", " mm"),
    "z": ("position from front (negative) to back", " mm"),
    "age": ("age", " years"),
    "nevi_confidence": ("confidence of a network that it is a nevus", " %"),
    "anatom_site_general": ("site", ""),
    "location": ("location", ""),
    "location_simple": ("region", ""),
    "sex": ("sex", ""),
    "tbp_tile_type": ("lighting", ""),
    "attribution": ("institution", ""),
}


@dataclass(frozen=True)
class ShapGroup:
    """SHAP values of one clinical sign: their sum in log-odds, and texts of the leading
    measurements.
    """

    name: str
    log_odds: float
    facts: tuple[str, ...]

    @property
    def headline(self) -> str:
        """Name, strength and factor on the odds, without the facts."""
        strength = next(
            (word for least, word in _STRENGTHS if abs(self.log_odds) >= least), "slightly"
        )
        return f"{self.name}, {strength} (odds × {np.exp(self.log_odds):.2f})"

    def __str__(self) -> str:
        return f"{self.headline}: {'; '.join(self.facts)}" if self.facts else self.headline


def group_shap(
    stack: Stack,
    values: pd.Series,
    columns: Mapping[str, NDArray[np.float32]],
    patients: ArrayLike,
    row: int,
) -> list[ShapGroup]:
    """Groups of the lesion at `row`, the largest magnitude first.

    values: SHAP values of the lesion by column. columns (each (n,)) and patients (n,): stacker
    columns and patients of the lesions for comparison.
    """
    own = np.asarray(patients) == np.asarray(patients)[row]
    pairs = [_group_and_measurement(stack, name) for name in map(str, values.index)]
    table = pd.DataFrame(pairs, columns=["group", "measurement"]).assign(value=values.to_numpy())

    groups = []
    for name, part in table.groupby("group", sort=False):
        total = float(part["value"].sum())
        shares = (part.groupby("measurement")["value"].sum() * np.sign(total)).sort_values(
            ascending=False
        )
        named = shares[
            [item in _CLINICAL_NAMES or item.startswith("image_") for item in shares.index]
        ]
        chosen = named[named >= _SHARE * named.iloc[0]].index[:_NAMED] if len(named) else []
        facts = (_fact(stack, str(item), columns, own, row) for item in chosen)
        groups.append(ShapGroup(str(name), total, tuple(fact for fact in facts if fact)))
    return sorted(groups, key=lambda group: -abs(group.log_odds))


def _group_and_measurement(stack: Stack, column: str) -> tuple[str, str]:
    """(group, measurement) of a stacker column; a comparison of a measurement belongs to that
    measurement.
    """
    if stack.families[column] == IMAGE_FAMILY:
        return _IMAGE, _network(stack, column)

    fitted = stack.families[column].startswith(f"{FITTED} ")
    source = _fitted_source(stack, column) if fitted else stack.encoder.sources()[column]
    measurement = short(source.rpartition("__")[2])
    for group, names in _MEASUREMENTS.items():
        if measurement in names:
            return group, measurement

    if fitted:
        return "similarity to training lesions", source
    family = _absolute_families().get(measurement, stack.families[column])
    if family in _FAMILY_GROUPS:
        return _FAMILY_GROUPS[family], measurement
    return "other measurements" if family == "other" else "the patient's other lesions", source


def _fitted_source(stack: Stack, column: str) -> str:
    """The fitted feature of a column, or the measurement if it is a statistic of one."""
    names = next(iter(stack.chains.values())).fitted.names
    source = next(name for name in names if plain(name) == column)
    return source.rpartition("_")[0] if "_level__" in source else source


def _fact(
    stack: Stack,
    measurement: str,
    columns: Mapping[str, NDArray[np.float32]],
    own: NDArray[np.bool_],
    row: int,
) -> str:
    """A measurement's value, percentile among all lesions and rank among the patient's (`own`); ""
    if unknown.
    """
    if measurement.startswith("image_"):
        network = measurement.removeprefix("image_")
        subject = "all networks together" if network == "all" else network
        return f"logit of {subject} {_comparison(columns[measurement], own, row)}"

    name, unit = _CLINICAL_NAMES[measurement]
    column = columns.get(plain(OFFICIAL.get(measurement, measurement)))
    if column is None:
        level = _level(stack, measurement, columns, row)
        return f"{name} {level}" if level else ""
    if np.isnan(column[row]):
        return f"{name} missing"
    value = column[row]
    text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{name} {text}{unit}, {_comparison(column, own, row)}"


def _level(
    stack: Stack, measurement: str, columns: Mapping[str, NDArray[np.float32]], row: int
) -> str | None:
    """The lesion's level of a category."""
    encoded = (
        name for name, source in stack.encoder.sources().items() if short(source) == measurement
    )
    return next((stack.encoder.level(name) for name in encoded if columns[name][row]), None)


def _comparison(column: NDArray[np.float32], own: NDArray[np.bool_], row: int) -> str:
    overall = _percentile(column, row)
    values = column[own]
    if len(values) < 2:
        return f"{overall} (the patient has no other)"
    if np.nanmax(values) == np.nanmin(values):
        return overall
    count, side = _larger_side(values, int(own[:row].sum()))
    others = len(values) - 1
    own_text = f"all {others} others of the patient" if count == others else f"{count} of {others}"
    return f"{overall} and {side} {own_text}"


def _larger_side(column: NDArray[np.float32], row: int) -> tuple[int, str]:
    """Number of lesions on the larger side of the value at `row`, and whether the value is above or
    below them.
    """
    below, above = int((column < column[row]).sum()), int((column > column[row]).sum())
    return (below, "above") if below >= above else (above, "below")


def _percentile(column: NDArray[np.float32], row: int) -> str:
    count, side = _larger_side(column, row)
    share = 100 * count / max(1, len(column) - 1)
    # "100 %" would be wrong for all but one.
    return (
        f"{side} {f'{int(share)}' if share < 99 else f'{np.floor(10 * min(share, 99.9)) / 10:g}'} %"
        " of all lesions"
    )


def _network(stack: Stack, column: str) -> str:
    """The logit column of an image column's network."""
    stems = [f"image_{plain(name)}" for name in (*stack.backbones, "all")]
    return max(
        (stem for stem in stems if column == stem or column.startswith(f"{stem}_")),
        key=len,
        default=column,
    )


def _absolute_families() -> dict[str, str]:
    """Feature -> family, of the families that do not compare lesions."""
    return {
        short(feature.name): name
        for name, family in feature_families().items()
        if not family.relative
        for feature in family.features
    }
