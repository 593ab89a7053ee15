"""Whether features and images together are worth more than either, through the whole pipeline.

`python benchmarks/end_to_end.py [--quick] [--only demo|real]`. Image networks by the committed recipe,
then the stacker by the committed settings, with nothing read from a finished `dvc repro`.

- `demo`: three populations of the demo's size, of seeds that chose nothing. Stacked minus features
  alone, paired, over the patients of all three.
- `real`: the real rows that have a tile, three seeds of folds. Stacked scores against the features
  alone and against five plain LightGBMs on raw columns, out of fold (five folds by patient), and with
  the patients split in halves: trained on one half, scored on the other, both halves pooled.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import features_ladder as ladder
import harness
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from isic.core.folds import make_folds
from isic.core.metric import auc, pauc, pauc_replicates
from isic.core.params import Params, load_params
from isic.core.schema import FEATURES_ONLY, ID, PATIENT, TARGET
from isic.core.tracker import NullTracker
from isic.data.sample import write_sample
from isic.data.tables import read_metadata
from isic.data.tiles import TileStore
from isic.stack.fit import fit_stack
from isic.stack.model import Stack
from isic.tabular import build_features
from isic.tabular.thinning import thin_patients

DEMO_SEEDS = (921, 922, 923)
TARGETS = {
    "demo_gain_mean": 0.005,
    "demo_gain_lowest": -0.004,
    "demo_gain_low": -0.002,
    "demo_images_lowest": 0.11,
    "real_against_features": -0.004,
    "real_against_features_upper": 0.0,
    "real_against_plain": -0.004,
    "real_against_plain_upper": 0.0,
    "half_against_features": -0.004,
    "half_against_features_upper": 0.0,
    "half_against_plain": -0.004,
    "half_against_plain_upper": 0.0,
}
Floats = NDArray[np.float64]


class Fitted(NamedTuple):
    """The pipeline's models; `models`: folder of the networks by backbone and fold. `oof` has the
    row order of the input and columns stack, features, images.
    """

    stack: Stack
    models: Mapping[tuple[str, int], Path]
    oof: pd.DataFrame


def fit(
    rows: pd.DataFrame, tiles: TileStore, params: Params, folds: pd.DataFrame, folder: Path
) -> Fitted:
    """Train the networks of all folds, embed their held-out lesions, fit the stacker."""
    from isic.image.network.embed import embed
    from isic.image.training.train import train_fold

    fold = folds.set_index(ID).loc[rows[ID], "fold"].to_numpy()
    frame = rows[[ID, TARGET]].assign(fold=fold)
    models: dict[tuple[str, int], Path] = {}
    logits = {name: np.zeros(len(rows)) for name in params.image.backbones}
    for name, values in logits.items():
        for held_out in np.unique(fold):
            model = folder / name / str(held_out)
            recipe = params.image.recipe(name)
            with contextlib.redirect_stderr(io.StringIO()):  # progress of each epoch
                train_fold(
                    tiles, frame, int(held_out), recipe, model, folder / "resume", NullTracker()
                )
            index = np.flatnonzero(fold == held_out)
            values[index] = embed(model, tiles, frame[ID].iloc[index].tolist()).logits
            models[name, int(held_out)] = model
    families = list(params.features.families)
    stack = fit_stack(
        build_features(rows, families),
        logits,
        folds,
        params.stack,
        thinned=build_features(thin_patients(rows), families),
    )
    scores = stack.oof.set_index(ID).loc[rows[ID]]
    images = np.mean([_by_fold(values, fold) for values in logits.values()], axis=0)
    oof = pd.DataFrame(
        {
            "stack": scores["score"].to_numpy(),
            "features": scores[FEATURES_ONLY].to_numpy(),
            "images": images,
        }
    )
    return Fitted(stack, models, oof)


def score(fitted: Fitted, rows: pd.DataFrame, tiles: TileStore, params: Params) -> pd.DataFrame:
    """Scores of further rows, the mean over the chains, with the columns stack and features."""
    from isic.image.network.embed import embed

    stack = fitted.stack
    features = build_features(rows, list(params.features.families))
    parts: dict[str, list[Floats]] = {"stack": [], "features": []}
    for fold in stack.folds:
        logits = {
            name: embed(model, tiles, rows[ID].tolist()).logits
            for (name, number), model in fitted.models.items()
            if number == fold
        }
        parts["stack"].append(stack.score(features, logits, fold, rows[PATIENT]))
        if stack.features_only is None:
            raise ValueError("a stacker with images has a features-only one")
        parts["features"].append(stack.features_only.score(features, {}, fold, rows[PATIENT]))
    return pd.DataFrame({name: np.mean(values, axis=0) for name, values in parts.items()})


def _by_fold(values: Floats, fold: NDArray[np.int64]) -> Floats:
    """Logits standardised within each fold: the scale differs between networks."""
    found = np.empty(len(values))
    for number in np.unique(fold):
        part = values[fold == number]
        found[fold == number] = (part - part.mean()) / part.std()
    return found


def _demo(quick: bool) -> dict[str, Any]:
    params = load_params(harness.ROOT / "params.yaml")
    sample = params.data.sample
    records, spreads = [], []
    for number, seed in enumerate(DEMO_SEEDS[: 1 if quick else None]):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_sample(folder, sample.patients, sample.lesions, sample.positives, seed)
            rows = read_metadata(folder / "train-metadata.csv", train=True)
            folds = make_folds(rows, len(params.folds), seed=params.split.seed)
            fitted = fit(rows, TileStore(folder / "train-image.hdf5"), params, folds, folder)
        target, owners = rows[TARGET], rows[PATIENT]
        values = {step: round(pauc(target, fitted.oof[step]), 4) for step in fitted.oof}
        sides = [fitted.oof["stack"], fitted.oof["features"]]
        stacked, alone = pauc_replicates(target, sides, owners, 1000, seed=number)
        spreads.append(stacked - alone)
        gain = pauc(target, sides[0]) - pauc(target, sides[1])
        records.append({"seed": seed, "pauc": values, "gain": round(gain, 4)})
        print(records[-1], flush=True)
    gains = [record["gain"] for record in records]
    low, high = np.quantile(np.mean(spreads, axis=0), [0.025, 0.975])
    return {
        "demo": records,
        "demo_gain_mean": round(float(np.mean(gains)), 4),
        "demo_gain_lowest": min(gains),
        "demo_gain_low": round(float(low), 4),
        "demo_gain_high": round(float(high), 4),
        "demo_images_lowest": min(record["pauc"]["images"] for record in records),
    }


def _real(quick: bool) -> dict[str, Any]:
    folder = harness.real_data()
    if folder is None:
        raise harness.NotMeasured("no real data: set ISIC_REAL_DATA")
    params = load_params(harness.ROOT / "params.yaml")
    rows = read_metadata(folder / "competition" / "train-metadata.csv", train=True)
    tiles = TileStore(folder / "competition" / "train-image.hdf5")
    found: dict[str, list[pd.DataFrame]] = {"real": [], "half": []}
    for seed in range(1 if quick else 3):
        for name, scores in (("real", _out_of_fold), ("half", _halves)):
            found[name].append(scores(rows, tiles, params, seed))
            values = {key: round(pauc(rows[TARGET], s), 4) for key, s in found[name][-1].items()}
            print(name, seed, values, flush=True)
    return {
        "rows": len(rows),
        "malignant": int(rows[TARGET].sum()),
        "patients": int(rows[PATIENT].nunique()),
        **{name: _compared(rows, frames) for name, frames in found.items()},
        **{
            f"{name}_against_{other}{end}": difference[index]
            for name, frames in found.items()
            for other in ("features", "plain")
            for difference in [_difference(ladder.mean_pauc_difference, rows, frames, other)]
            for end, index in (("", 0), ("_upper", 2))
        },
    }


def _out_of_fold(rows: pd.DataFrame, tiles: TileStore, params: Params, seed: int) -> pd.DataFrame:
    folds = make_folds(rows, 5, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        scores = fit(rows, tiles, params, folds, Path(folder)).oof
    return scores.assign(plain=_plain(rows, folds))


def _halves(rows: pd.DataFrame, tiles: TileStore, params: Params, seed: int) -> pd.DataFrame:
    halves = make_folds(rows, 2, seed=seed)
    half = halves.set_index(ID).loc[rows[ID], "fold"].to_numpy()
    scores = pd.DataFrame(0.0, index=range(len(rows)), columns=["stack", "features"])
    for number in (0, 1):
        own = rows[half == number].reset_index(drop=True)
        other = rows[half != number].reset_index(drop=True)
        folds = make_folds(own, len(params.folds), seed=seed)
        with tempfile.TemporaryDirectory() as folder:
            fitted = fit(own, tiles, params, folds, Path(folder))
            scores.loc[half != number, :] = score(fitted, other, tiles, params).to_numpy()
    return scores.assign(plain=_plain(rows, halves))


def _plain(rows: pd.DataFrame, folds: pd.DataFrame) -> Floats:
    """Five plain LightGBMs on raw columns, trained on the other folds."""
    order = folds.set_index(ID).loc[rows[ID]].reset_index()
    return ladder.out_of_fold(build_features(rows, ["raw"]), order, ["raw"], 5, negatives=None)


def _difference(
    mean_difference: Callable[..., list[float]],
    rows: pd.DataFrame,
    frames: list[pd.DataFrame],
    other: str,
) -> list[float]:
    pairs = [(frame["stack"].to_numpy(), frame[other].to_numpy()) for frame in frames]
    return mean_difference(rows[TARGET], pairs, rows[PATIENT])


def _compared(rows: pd.DataFrame, frames: list[pd.DataFrame]) -> dict[str, Any]:
    """pAUC and AUC of each seed, and the stacked scores against each other column."""
    return {
        "seeds": [
            {
                name: {
                    "pauc": round(pauc(rows[TARGET], s), 4),
                    "auc": round(auc(rows[TARGET], s), 4),
                }
                for name, s in frame.items()
            }
            for frame in frames
        ],
        "stacked_minus": {
            other: {
                "pauc": _difference(ladder.mean_pauc_difference, rows, frames, other),
                "auc": _difference(ladder.mean_auc_difference, rows, frames, other),
            }
            for other in frames[0].columns.drop("stack")
        },
    }


def judge(measured: Mapping[str, Any]) -> dict[str, bool | None]:
    """Whether each target is met; None without a number."""
    return {
        name: None if measured.get(name) is None else bool(measured[name] >= bound)
        for name, bound in TARGETS.items()
    }


def main() -> int:
    options = harness.arguments(__doc__ or "", ("demo", "real"))
    parts = {"demo": partial(_demo, options.quick), "real": partial(_real, options.quick)}
    return harness.run_parts("end_to_end", parts, TARGETS, judge, options.quick, options.only)


if __name__ == "__main__":
    sys.exit(main())
