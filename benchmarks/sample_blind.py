"""Population files fitted to a part of the real rows alone, so that the rest can judge them.

`python benchmarks/sample_blind.py OUT` splits the real rows (`ISIC_REAL_DATA`) by patient into two
halves and writes `OUT/half0.json` and `OUT/half1.json`, each for `isic sample --population FILE`.
A half file holds what its rows and tiles say (quantiles, rank correlations, hospital offsets,
body coordinates, relations between columns, tile colours) and published counts: patients, their
lesions, hospitals, sites, diagnoses. Visibility is the shipped one, which was fitted to the ROC
curve of the whole data set; grain and signs of the tiles are constants of the generator.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import cv2
import harness
import numpy as np
import pandas as pd
from scipy.special import ndtri

from isic.core.folds import make_folds
from isic.core.schema import TARGET
from isic.data.sample.population import EXOGENOUS
from isic.data.tables import read_metadata
from isic.data.tiles import TileStore

#: Probabilities of a half's quantile tables.
PROBABILITIES = [0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 1]
#: Rank correlations are drawn towards those of both classes together by these shares.
_TOWARDS_BOTH = {"benign": 0.2, "malignant": 0.5}
#: Patients' share of the variance: too few rows per patient in a half to tell more.
_PATIENT_SHARE = 0.3
#: A mean over n rows of a hospital or a place counts n / (n + this).
_SHRINK = 20


def main() -> int:
    """Write the two files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder for half0.json and half1.json")
    out = parser.parse_args().out
    real = harness.real_data()
    if real is None:
        print("no real data: set ISIC_REAL_DATA", file=sys.stderr)
        return 2
    out.mkdir(parents=True, exist_ok=True)
    write_halves(real, out)
    return 0


def write_halves(real: Path, out: Path) -> list[tuple[Path, pd.DataFrame]]:
    """Each half's population file, and the rows of the other half, which may judge it."""
    rows = read_metadata(real / "tabular" / "train-metadata.csv", train=True)
    half = make_folds(rows, 2, seed=0)["fold"].to_numpy()
    pairs = []
    for number in (0, 1):
        path = out / f"half{number}.json"
        tiles = TileStore(real / "competition" / "train-image.hdf5")
        path.write_text(compact(fit(rows[half == number], tiles)), encoding="utf-8")
        pairs.append((path, rows[half != number]))
    return pairs


def compact(facts: Mapping[str, Any]) -> str:
    """JSON with every list of numbers on one line."""
    text = json.dumps(facts, indent=1, ensure_ascii=False)
    return re.sub(r"\[[^\[\]{}\"]*\]", lambda found: re.sub(r"\s+", " ", found[0]), text) + "\n"


def fit(rows: pd.DataFrame, tiles: TileStore) -> dict[str, Any]:
    """A population file of these rows and their tiles; counts are the published ones."""
    shipped = json.loads(files("isic.data.sample").joinpath("population.json").read_text("utf-8"))
    names = shipped["variables"]
    groups = {"benign": rows[rows[TARGET] == 0], "malignant": rows[rows[TARGET] == 1]}
    source = f"{len(rows)} CC-BY and CC-0 rows, {len(groups['malignant'])} malignant"
    return shipped | {
        "sources": [f"all but counts and visibility: {source}; counts: see population.json"],
        "quantiles": {
            name: {group: _table(part[name]) for group, part in groups.items()} for name in names
        },
        "spearman": _correlations(groups, names),
        "patient_share": [_PATIENT_SHARE] * (len(names) - EXOGENOUS),
        "hospitals": _hospitals(shipped["hospitals"], groups["benign"], names[EXOGENOUS:]),
        "locations": _locations(shipped["locations"], rows),
        "relations": relations(rows),
        "tiles": tile_colours(rows, tiles),
    }


def _table(column: pd.Series) -> dict[str, list[float]]:
    values = np.quantile(column.dropna(), PROBABILITIES)
    return {"p": list(PROBABILITIES), "value": [round(float(value), 4) for value in values]}


def _correlations(
    groups: Mapping[str, pd.DataFrame], names: list[str]
) -> dict[str, list[list[float]]]:
    """Lower triangles by rows."""
    own = {name: part[names].corr("spearman").fillna(0).to_numpy() for name, part in groups.items()}
    weights = [len(part) for part in groups.values()]
    both = np.average(list(own.values()), axis=0, weights=weights)
    found = {}
    for name, matrix in own.items():
        share = _TOWARDS_BOTH[name]
        mixed = (1 - share) * matrix + share * both
        found[name] = [[round(float(v), 3) for v in mixed[row, :row]] for row in range(len(names))]
    return found


def _hospitals(
    counts: list[dict[str, Any]], benign: pd.DataFrame, names: list[str]
) -> list[dict[str, Any]]:
    """Means of normal scores per hospital; those without rows share what balances the rest."""
    # A few rows lack train-only columns.
    ranks = (benign[names].rank() - 0.5) / benign[names].count()
    scores = ndtri(ranks.fillna(0.5).to_numpy())
    offsets, rest, absent = {}, np.zeros(len(names)), 0
    for hospital in counts:
        here = (benign["attribution"] == hospital["name"]).to_numpy()
        if here.any():
            mean = scores[here].mean(axis=0) * here.sum() / (here.sum() + _SHRINK)
            offsets[hospital["name"]] = mean
            rest -= hospital["rows"] * mean
        else:
            absent += hospital["rows"]
    return [
        hospital
        | {
            "offset": [
                round(float(v), 3)
                for v in offsets.get(hospital["name"], rest / max(absent, 1)).clip(-0.6, 0.6)
            ]
        }
        for hospital in counts
    ]


def _locations(counts: list[dict[str, Any]], rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Mean and sd of x, y, z at each location, drawn towards those of its simple location."""
    found = []
    for place in counts:
        name = place["name"]
        here = rows["tbp_lv_location"] == name
        simple = rows.loc[here, "tbp_lv_location_simple"]
        near = rows["tbp_lv_location_simple"] == (
            simple.iloc[0] if here.any() else name.split(" - ")[0]
        )
        near = near if near.sum() > 3 else pd.Series(True, index=rows.index)
        share = here.sum() / (here.sum() + 5)
        axes = {}
        for axis in "xyz":
            column = rows[f"tbp_lv_{axis}"]
            mean, spread = column[near].mean(), column[near].std()
            if here.sum() > 3:
                mean = share * column[here].mean() + (1 - share) * mean
                spread = share * column[here].std() + (1 - share) * spread
            axes[axis] = [round(float(mean), 1), round(float(max(spread, 10)), 1)]
        found.append(place | axes)
    return found


def relations(rows: pd.DataFrame) -> dict[str, list[float]]:
    """Near-exact relations between columns: intercept, weights, residual sd (excess: gamma shape
    and scale).
    """
    tbp = rows.rename(columns=lambda name: name.removeprefix("tbp_lv_"))
    diameter, minor = tbp["clin_size_long_diam_mm"], tbp["minorAxisMM"]
    aspect = (minor / diameter).clip(upper=1)
    excess = tbp["deltaLB"] - np.hypot(tbp["deltaL"], tbp["deltaB"])
    coloured = tbp[(tbp["color_std_mean"] > 0) & (tbp["norm_color"] < 10)]
    open_ = tbp[tbp["norm_border"] < 10]
    found = {
        "area": _least_squares(
            np.log(tbp["areaMM2"] / (np.pi / 4 * diameter * minor)),
            np.log(diameter),
            np.log(aspect),
            np.log(tbp["area_perim_ratio"]),
        ),
        "contrast": _least_squares(
            np.log(tbp["deltaLBnorm"]),
            np.log(tbp["Lext"]),
            np.log(tbp["deltaLB"]),
            np.log(diameter),
            np.log(tbp["Bext"]),
        ),
        "excess": [excess.mean() ** 2 / excess.var(), excess.var() / excess.mean()],
        "norm_color": _least_squares(
            coloured["norm_color"], coloured["color_std_mean"], coloured["radial_color_std_max"]
        ),
        "norm_border": _least_squares(
            open_["norm_border"], open_["area_perim_ratio"], open_["symm_2axis"]
        ),
        "eccentricity": _least_squares(np.sqrt(1 - aspect**2), tbp["eccentricity"]),
    }
    return {name: [round(float(v), 4) for v in values] for name, values in found.items()}


def _least_squares(values: pd.Series, *columns: pd.Series) -> list[float]:
    matrix = np.column_stack([np.ones(len(values)), *columns])
    weights = np.linalg.lstsq(matrix, values.to_numpy(), rcond=None)[0]
    return [*weights, (values - matrix @ weights).std()]


def tile_colours(rows: pd.DataFrame, tiles: TileStore) -> dict[str, Any]:
    """Image colour of the skin by Lext, Aext, Bext, its residual sd, and contrast factors, per tile
    type.
    """
    rows = rows[rows["isic_id"].isin(set(tiles.ids()))]
    colours = np.array([_colours(tiles.image(name)) for name in rows["isic_id"]])
    outside = rows[["tbp_lv_Lext", "tbp_lv_Aext", "tbp_lv_Bext"]].to_numpy()
    inside = rows[["tbp_lv_deltaL", "tbp_lv_deltaA", "tbp_lv_deltaB"]].to_numpy()
    found = {}
    for name in ("3D: white", "3D: XP"):
        here = (rows["tbp_tile_type"] == name).to_numpy()
        fits = [
            _least_squares(pd.Series(colours[here, axis]), *outside[here].T) for axis in range(3)
        ]
        contrast = (colours[here, 3:] * inside[here]).sum(axis=0) / (inside[here] ** 2).sum(axis=0)
        found[name] = {
            "skin": [[round(float(v), 3) for v in values[:-1]] for values in fits],
            "residual": [round(float(values[-1]), 2) for values in fits],
            # The centre's median is what the painted profile makes of the contrast.
            "contrast": [round(float(v), 2) for v in contrast.clip(0.8, 2)],
        }
    return found


def _colours(image: np.ndarray) -> np.ndarray:
    """Median L*, a*, b* of the skin 5 mm from the centre, and how far the centre differs (6,)."""
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    side = len(image)
    away = np.hypot(*(np.mgrid[:side, :side] - side / 2)) * 15 / side
    skin, centre = np.median(lab[away > 5], axis=0), np.median(lab[away < 0.9], axis=0)
    return np.concatenate([skin, centre - skin])


if __name__ == "__main__":
    sys.exit(main())
