"""Do the image networks learn from real tiles? Against gradient boosting on the same tiles shrunk
to 16 x 16.

Both demo networks start from random weights, with the committed recipe but longer, on five folds of
the 6,478 real tiles (164 malignant). Patients are known for 228 tiles only; those are kept
together, the rest is split by tile, so both sides are a little optimistic, alike. Scores are pooled
out of fold; intervals resample tiles.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import harness
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from isic.core.metric import auc, pauc
from isic.core.params import load_params
from isic.core.tracker import NullTracker
from isic.data.tiles import TileStore

FOLDS = 5
#: The networks' recipe: the demo's, longer, as real tiles are harder than generated ones.
RECIPE = {"epochs": 30, "augment": "light", "positive_repeats": 1, "validate_negatives": 400}
#: By how much the networks must beat gradient boosting.
MARGIN = 0.01
Floats = NDArray[np.float64]


def labelled(folder: Path, quick: bool) -> pd.DataFrame:
    """isic_id, target and fold of the tiles; a quick run takes about 80 of each class."""
    from sklearn.model_selection import StratifiedGroupKFold

    frame = pd.read_csv(folder / "tiles" / "labels.csv")[["isic_id", "target"]]
    known = pd.read_csv(folder / "competition" / "train-metadata.csv", low_memory=False)[
        ["isic_id", "patient_id"]
    ]
    frame = frame.merge(known, on="isic_id", how="left")
    group = frame["patient_id"].fillna(frame["isic_id"])
    splitter = StratifiedGroupKFold(n_splits=FOLDS, shuffle=True, random_state=0)
    for fold, (_, held_out) in enumerate(splitter.split(frame, frame["target"], group)):
        frame.loc[frame.index[held_out], "fold"] = fold
    frame["fold"] = frame["fold"].astype(int)
    # Of 164 positives and 6,314 negatives.
    every = frame["target"].map({1: 2, 0: 80})
    return frame[frame.index % every == 0].reset_index(drop=True) if quick else frame


def boosted(frame: pd.DataFrame, tiles: TileStore) -> Floats:
    """Out-of-fold scores of LightGBM on 16 x 16 pixels."""
    import lightgbm

    small = [
        cv2.resize(tiles.image(name), (16, 16), interpolation=cv2.INTER_AREA).ravel()
        for name in frame["isic_id"]
    ]
    pixels, target, fold = (
        np.array(small, dtype=np.float32),
        frame["target"].to_numpy(),
        frame["fold"].to_numpy(),
    )
    params = {
        "objective": "binary",
        "learning_rate": 0.03,
        "num_leaves": 15,
        "feature_fraction": 0.3,
        "min_data_in_leaf": 20,
        "scale_pos_weight": 5.0,
        "seed": 0,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": 1,
        "verbosity": -1,
    }
    score = np.zeros(len(frame))
    for number in range(FOLDS):
        train = fold != number
        booster = lightgbm.train(params, lightgbm.Dataset(pixels[train], target[train]), 400)
        score[~train] = booster.predict(pixels[~train])
    return score


def network(backbone: str, frame: pd.DataFrame, tiles: TileStore, quick: bool) -> Floats:
    """Out-of-fold logits of one demo network."""
    from isic.image.network.embed import embed
    from isic.image.training.train import train_fold

    recipe = load_params(harness.ROOT / "params.yaml").image.recipe(backbone)
    recipe = recipe.model_copy(update=RECIPE | ({"epochs": 1} if quick else {}))
    score = np.zeros(len(frame))
    with tempfile.TemporaryDirectory() as scratch:
        for fold in range(FOLDS):
            folder = Path(scratch) / str(fold)
            train_fold(
                tiles,
                frame,
                fold,
                recipe,
                folder,
                Path(scratch) / "resume",
                NullTracker(),
                name=f"{backbone}-{fold}",
            )
            held_out = (frame["fold"] == fold).to_numpy()
            said = embed(folder, tiles, frame.loc[held_out, "isic_id"].tolist()).logits
            # Folds have scales of their own; pooling needs one.
            score[held_out] = (said - said.mean()) / said.std()
            print(
                f"{backbone} fold {fold}: AUC {auc(frame.loc[held_out, 'target'], said):.3f}",
                flush=True,
            )
    return score


def interval(
    target: NDArray[np.int64], score: Floats, replicates: int = 500
) -> tuple[float, float]:
    """Central 95 % of the AUC over resampled tiles."""
    random = np.random.default_rng(0)
    drawn = [random.integers(0, len(target), len(target)) for _ in range(replicates)]
    low, high = np.quantile([auc(target[rows], score[rows]) for rows in drawn], [0.025, 0.975])
    return float(low), float(high)


def main() -> int:
    options = harness.arguments(__doc__ or "")
    targets = {"margin": f"AUC of the networks >= AUC of boosting on 16 x 16 + {MARGIN}"}

    def judge(measured: Mapping[str, Any]) -> dict[str, bool | None]:
        return {"margin": bool(measured["margin"] >= MARGIN)}

    parts = {"networks": lambda: measure(options.quick)}
    return harness.run_parts("real_tiles", parts, targets, judge, options.quick)


def measure(quick: bool) -> dict[str, object]:
    """AUC of boosting and of both networks on the real tiles. Raises NotMeasured where there are
    none.
    """
    folder = harness.real_data()
    if folder is None:
        raise harness.NotMeasured("no real data: set ISIC_REAL_DATA")
    frame, tiles = labelled(folder, quick), TileStore(folder / "tiles" / "train-image.hdf5")
    target = frame["target"].to_numpy(np.int64)
    scores = {"boosting_16x16": boosted(frame, tiles)}
    print(f"boosting on 16 x 16: AUC {auc(target, scores['boosting_16x16']):.4f}", flush=True)
    for backbone in ("vit", "convnext"):
        scores[backbone] = network(backbone, frame, tiles, quick)
    scores["networks"] = scores["vit"] + scores["convnext"]
    measured: dict[str, object] = {"tiles": len(frame), "malignant": int(target.sum())}
    for name, score in scores.items():
        low, high = interval(target, score)
        measured[name] = {
            "auc": auc(target, score),
            "low": low,
            "high": high,
            "pauc": pauc(target, score),
        }
    measured["margin"] = auc(target, scores["networks"]) - auc(target, scores["boosting_16x16"])
    return measured


if __name__ == "__main__":
    sys.exit(main())
