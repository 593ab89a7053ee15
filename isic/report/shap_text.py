"""SHAP values in words: the columns that speak of one thing are told as one sign, in the terms of a skin examination.

Hundreds of columns measure a dozen things in several ways (as they are, against the patient's other lesions, in
products). One sign adds up all columns of one thing; the measurement that did most of it is then named, with where the
lesion stands among all lesions and among the patient's own.
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

#: Log-odds from which a sign counts as strong, clear or mild; below the last it is slight.
_STRENGTHS = ((1.5, "strongly"), (0.5, "clearly"), (0.15, "mildly"))
#: Measurements named for one sign, each doing at least this share of what the first does.
_NAMED, _SHARE = 2, 0.3

PICTURE = "the picture"
#: Signs, and the measurements that may be named for them; formulas of several count, but are not named.
_SIGNS: dict[str, tuple[str, ...]] = {
    "colour of the lesion": ("A", "B", "C", "H", "L"),
    "unevenness of colour": ("stdL", "norm_color", "color_std_mean", "radial_color_std_max"),
    "colour of the skin around": ("Aext", "Bext", "Cext", "Hext", "Lext", "stdLExt"),
    "contrast to the skin": ("deltaA", "deltaB", "deltaL", "deltaLB", "deltaLBnorm"),
    "size": ("areaMM2", "minorAxisMM", "diam", "perimeterMM"),
    "size and colour for the age": ("age",),
    "shape and border": ("eccentricity", "symm_2axis", "norm_border", "area_perim_ratio"),
    "place on the body": ("x", "y", "z", "anatom_site_general", "location", "location_simple"),
    "sex": ("sex",),
    "likeness to a nevus": ("nevi_confidence",),
    "institution and lighting": ("tbp_tile_type", "attribution"),
}
_OF_FAMILY = {
    "age": "size and colour for the age",
    "border": "shape and border",
    "colour": "contrast to the skin",
    "colour_pairs": "colour of the lesion",
    "combined": "place on the body",
    "composite": "several signs combined",
    "location": "place on the body",
    "raw": "shape and border",  # the angle of the axis of asymmetry
    "shape": "shape and border",
    "size": "size",
    "texture": "unevenness of colour",
}
#: Measurements as a clinician may call them, and the unit after the number.
_CALLED: dict[str, tuple[str, str]] = {
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
    "location": ("place", ""),
    "location_simple": ("region", ""),
    "sex": ("sex", ""),
    "tbp_tile_type": ("lighting", ""),
    "attribution": ("institution", ""),
}


@dataclass(frozen=True)
class Sign:
    """One thing about a lesion: by how much it moved the log-odds, and its leading measurements in words."""

    what: str
    log_odds: float
    facts: tuple[str, ...]

    def __str__(self) -> str:
        strength = next((word for least, word in _STRENGTHS if abs(self.log_odds) >= least), "slightly")
        told = f": {'; '.join(self.facts)}" if self.facts else ""
        return f"{self.what}, {strength} (odds × {np.exp(self.log_odds):.2f}){told}"


def signs(
    stack: Stack,
    values: pd.Series,
    columns: Mapping[str, NDArray[np.float32]],
    patients: ArrayLike,
    place: int,
) -> list[Sign]:
    """Signs of the lesion at row `place`, strongest first.

    values: its SHAP values by column. columns: what the stacker read, each (n,), and `patients` (n,), of all lesions it
    is compared with.
    """
    mine = np.asarray(patients) == np.asarray(patients)[place]
    about = {name: _subject(stack, name) for name in map(str, values.index)}
    subjects = pd.DataFrame({"what": [about[name][0] for name in about], "measure": [about[name][1] for name in about]})
    subjects["value"] = values.to_numpy()
    told = []
    for what, part in subjects.groupby("what", sort=False):
        total = float(part["value"].sum())
        by_measure = (part.groupby("measure")["value"].sum() * np.sign(total)).sort_values(ascending=False)
        named = by_measure[[name in _CALLED or name.startswith("image_") for name in by_measure.index]]
        chosen = named[named >= _SHARE * named.iloc[0]].index[:_NAMED] if len(named) else []
        facts = (_fact(stack, str(name), columns, mine, place) for name in chosen)
        told.append(Sign(str(what), total, tuple(fact for fact in facts if fact)))
    return sorted(told, key=lambda sign: -abs(sign.log_odds))


def _subject(stack: Stack, column: str) -> tuple[str, str]:
    """(sign, measurement) that a column speaks of: a comparison of a measurement speaks of that measurement."""
    if stack.families[column] == IMAGE_FAMILY:
        return PICTURE, _network(stack, column)
    fitted = stack.families[column].startswith(f"{FITTED} ")
    source = _fitted_source(stack, column) if fitted else stack.encoder.sources()[column]
    measure = short(source.rpartition("__")[2])
    for what, names in _SIGNS.items():
        if measure in names:
            return what, measure
    if fitted:
        return "likeness to training lesions", source
    family = _families().get(measure, stack.families[column])
    if family in _OF_FAMILY:
        return _OF_FAMILY[family], measure
    return "other measurements" if family == "other" else "the patient's other lesions", source


def _fitted_source(stack: Stack, column: str) -> str:
    """The fitted feature of a column; a statistic of a measurement counts as that measurement."""
    names = next(iter(stack.chains.values())).fitted.names
    source = next(name for name in names if plain(name) == column)
    return source.rpartition("_")[0] if "_level__" in source else source


def _fact(
    stack: Stack, measure: str, columns: Mapping[str, NDArray[np.float32]], mine: NDArray[np.bool_], place: int
) -> str:
    """A measurement's value, and where it stands among all lesions and among the patient's (`mine`); "" if unknown."""
    if measure.startswith("image_"):
        network = measure.removeprefix("image_")
        who = "all networks together" if network == "all" else network
        return f"suspicion of {who} {_standing(columns[measure], mine, place)}"
    what, unit = _CALLED[measure]
    column = columns.get(plain(OFFICIAL.get(measure, measure)))
    if column is None:
        level = _level(stack, measure, columns, place)
        return f"{what} {level}" if level else ""
    if np.isnan(column[place]):
        return f"{what} not recorded"
    value = column[place]
    number = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{what} {number}{unit}, {_standing(column, mine, place)}"


def _level(stack: Stack, measure: str, columns: Mapping[str, NDArray[np.float32]], place: int) -> str | None:
    """The level that the lesion has of a category."""
    made = (name for name, source in stack.encoder.sources().items() if short(source) == measure)
    return next((stack.encoder.level(name) for name in made if columns[name][place]), None)


def _standing(column: NDArray[np.float32], mine: NDArray[np.bool_], place: int) -> str:
    everyone = _side(column, place)
    others = column[mine]
    if len(others) < 2:
        return f"{everyone} (the patient has no other)"
    if np.nanmax(others) == np.nanmin(others):
        return everyone
    many, word = _more(others, int(mine[:place].sum()))
    rest = len(others) - 1
    return f"{everyone} and {word} " + (f"all {rest} others of the patient" if many == rest else f"{many} of {rest}")


def _more(column: NDArray[np.float32], place: int) -> tuple[int, str]:
    """How many of the others lie on the fuller side of the value at `place`, and whether it is above or below them."""
    below, above = int((column < column[place]).sum()), int((column > column[place]).sum())
    return (below, "above") if below >= above else (above, "below")


def _side(column: NDArray[np.float32], place: int) -> str:
    many, word = _more(column, place)
    share = 100 * many / max(1, len(column) - 1)
    # Never "100 %" of all but one.
    return f"{word} {f'{int(share)}' if share < 99 else f'{np.floor(10 * min(share, 99.9)) / 10:g}'} % of all lesions"


def _network(stack: Stack, column: str) -> str:
    """The plain logit column that an image column belongs to."""
    stems = [f"image_{plain(name)}" for name in (*stack.backbones, "all")]
    return max((stem for stem in stems if column == stem or column.startswith(f"{stem}_")), key=len, default=column)


def _families() -> dict[str, str]:
    return {
        short(feature.name): name
        for name, family in feature_families().items()
        if not family.relative
        for feature in family.features
    }
