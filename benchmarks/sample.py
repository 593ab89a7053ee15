"""Generated data: speed at full size, transfer to the real part of SLICE-3D, and a classifier of
real against generated.

Real rows and tiles come from `ISIC_REAL_DATA` (default ../shared/data/slice3d); without them only
speed is measured. This is no blind test: hospital offsets, body coordinates and tile colours of the
generator are aggregates over the same openly licensed rows (314 benign, 164 malignant). Single rows
were never fitted.
"""

from __future__ import annotations

import itertools
import os

# Before the import of numpy: thread pools of two sides would compete for the cores.
os.environ.setdefault("OMP_NUM_THREADS", "2")

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import harness
import lightgbm as lgb
import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold

from isic.core.metric import pauc
from isic.core.schema import NUMERIC
from isic.data.sample import write_sample
from isic.data.tables import read_metadata
from isic.data.tiles import TileStore

FULL = (1042, 401_059, 393)
QUICK = (104, 40_000, 60)
SIDE = 64


PARTS = ("table", "tiles", "rows_against", "tiles_against")

#: Per target of the issue, sign and bound.
GOALS = {
    "rows_seconds": ("<", 120.0),
    "rows_memory_gb": ("<", 3.0),
    "tiles_seconds": ("<", 720.0),
    "rows_to_real_auc": (">=", 0.88),
    "tiles_to_real_auc": (">=", 0.70),
    "real_or_generated_auc": ("<=", 0.80),
}


def main() -> int:
    """Measure, compare with the targets, report."""
    options = harness.arguments(__doc__, PARTS)
    targets = {name: f"{sign} {bound:g}" for name, (sign, bound) in GOALS.items()}
    with tempfile.TemporaryDirectory() as folder:
        parts = {part: partial(measure, part, Path(folder), options.quick) for part in PARTS}
        return harness.run_parts("sample", parts, targets, judge, options.quick, options.only)


def judge(measured: Mapping[str, Any]) -> dict[str, bool | None]:
    """Whether each target is met; None where it has no number."""
    return {
        name: None if measured.get(name) is None else reached(measured[name], *goal)
        for name, goal in GOALS.items()
    }


def measure(part: str, folder: Path, quick: bool) -> dict[str, float | None]:
    """The numbers of one part. Raises NotMeasured where it needs real data and there are none."""
    if part == "table":
        return table_speed(folder / "table", quick)
    if part == "tiles":
        return tile_speed(folder / "tiles_full", quick)
    real = harness.real_data()
    if real is None:
        raise harness.NotMeasured("no real data: set ISIC_REAL_DATA")
    return (
        rows_against(real, folder / "rows")
        if part == "rows_against"
        else tiles_against(real, folder / "t", quick)
    )


def reached(value: float, sign: str, bound: float) -> bool:
    """Whether a value meets its bound."""
    return bool({"<": value < bound, "<=": value <= bound, ">=": value >= bound}[sign])


def table_speed(out: Path, quick: bool) -> dict[str, float | None]:
    """Seconds and peak memory of the full table without tiles (a tenth of it, when quick)."""
    seconds, _, memory = timed(out, QUICK if quick else FULL, images=False)
    return {} if quick else {"rows_seconds": seconds, "rows_memory_gb": memory}


def tile_speed(out: Path, quick: bool) -> dict[str, float | None]:
    """Seconds, processor seconds and peak memory of the full set with tiles (a hundredth of it,
    when quick).
    """
    size = (FULL[0] // 10, FULL[1] // 100, 40) if quick else FULL
    seconds, processor, memory = timed(out, size, images=True)
    return {
        "tiles_seconds": None if quick else seconds,
        "tiles_memory_gb": None if quick else memory,
        "tiles_timed": size[1],
        "tiles_processor_seconds": processor,
        "tiles_per_second": round(size[1] / seconds, 1),
    }


def timed(out: Path, size: tuple[int, int, int], images: bool) -> tuple[float, float, float]:
    """Wall seconds, processor seconds and peak GB of `write_sample` in a process of its own,
    imports included.

    Processor seconds / cores are the wall seconds of an idle machine.
    """
    call = f"write_sample({str(out)!r}, {size[0]}, {size[1]}, {size[2]}, seed=0, images={images})"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", f"from isic.data.sample import write_sample; {call}"], check=True
    )
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return round(seconds, 1), round(processor, 1), round(after.ru_maxrss * 1024 / 1e9, 2)


def rows_against(real: Path, generated: Path) -> dict[str, float]:
    """LightGBM from generated to real rows, and real against generated benign rows of the same
    hospitals.
    """
    write_sample(generated, *FULL, seed=0, images=False)
    ours = read_metadata(generated / "train-metadata.csv", train=True)
    theirs = read_metadata(real / "tabular" / "train-metadata.csv", train=True)
    features = list(NUMERIC)
    score = np.zeros(len(theirs))
    for seed in range(5):
        rows = pd.concat(
            [ours[ours["target"] == 0].sample(20_000, random_state=seed), ours[ours["target"] == 1]]
        )
        score += (
            booster(seed)
            .fit(rows[features], rows["target"])
            .predict_proba(theirs[features], raw_score=True)
        )
    target = theirs["target"].to_numpy()
    tagged = theirs["clin_size_long_diam_mm"].to_numpy() >= 2.5
    return {
        "rows_to_real_auc": round(float(roc_auc_score(target, score)), 4),
        "rows_to_real_auc_from_2.5mm": round(
            float(roc_auc_score(target[tagged], score[tagged])), 4
        ),
        "rows_to_real_pauc": round(float(pauc(target, score)), 4),
        "real_or_generated_auc": real_or_generated(theirs, ours, 0),
        "real_or_generated_auc_malignant": real_or_generated(theirs, ours, 1),
    }


def booster(seed: int) -> lgb.LGBMClassifier:
    """A plain LightGBM: small leaves, a small feature fraction, fixed rounds."""
    return lgb.LGBMClassifier(
        n_estimators=200,
        learning_rate=0.03,
        num_leaves=15,
        min_child_samples=30,
        subsample=0.8,
        subsample_freq=1,
        colsample_bytree=0.5,
        reg_lambda=5,
        n_jobs=2,
        verbose=-1,
        random_state=seed,
    )


def real_or_generated(theirs: pd.DataFrame, ours: pd.DataFrame, target: int) -> float:
    """Cross-validated AUC of a classifier of real against generated rows of the same target and
    hospitals.

    Both sides have the same mix of hospitals (three generated rows per real one where there are so
    many), so that the hospitals that the real part lacks do not help the classifier. Folds are by
    row: a real patient's rows may be on both sides, which can only help the classifier.
    """
    real = theirs[theirs["target"] == target]
    pool = ours[ours["target"] == target]
    scores = []
    for seed in range(3):
        counts = real["attribution"].value_counts()
        wanted = {
            name: min(3 * count, (pool["attribution"] == name).sum())
            for name, count in counts.items()
        }
        drawn = [
            pool[pool["attribution"] == name].sample(count, random_state=seed)
            for name, count in wanted.items()
        ]
        values = pd.concat([real, *drawn])[list(NUMERIC)]
        label = np.r_[np.ones(len(real)), np.zeros(len(values) - len(real))]
        out = np.zeros(len(values))
        for train, test in StratifiedKFold(5, shuffle=True, random_state=seed).split(values, label):
            model = booster(seed).set_params(
                n_estimators=150, learning_rate=0.05, min_child_samples=10
            )
            out[test] = model.fit(values.iloc[train], label[train]).predict_proba(
                values.iloc[test]
            )[:, 1]
        scores.append(roc_auc_score(label, out))
    return round(float(np.mean(scores)), 4)


def tiles_against(real: Path, generated: Path, quick: bool) -> dict[str, float]:
    """A small network trained on generated tiles only, scored on all real tiles."""
    torch.manual_seed(0)
    torch.set_num_threads(2)
    lesions, positives = (2500, 500) if quick else (8000, 2000)
    write_sample(generated, 600, lesions, positives, seed=11)
    frame = read_metadata(generated / "train-metadata.csv", train=True)
    tiles = pictures(TileStore(generated / "train-image.hdf5"), frame["isic_id"].to_list())
    labels = pd.read_csv(real / "tiles" / "labels.csv")
    theirs = pictures(TileStore(real / "tiles" / "train-image.hdf5"), labels["isic_id"].to_list())
    target = frame["target"].to_numpy()
    held_out = (frame["patient_id"].astype("category").cat.codes % 6 == 0).to_numpy(copy=True)
    scores, own = np.zeros(len(theirs)), np.zeros(held_out.sum())
    for seed in range(1 if quick else 3):
        model = train(tiles[~held_out], target[~held_out], seed, epochs=4 if quick else 10)
        scores += predict(model, theirs)
        own += predict(model, tiles[held_out])
    return {
        "tiles_to_real_auc": round(float(roc_auc_score(labels["target"], scores)), 4),
        "tiles_to_real_pauc": round(float(pauc(labels["target"].to_numpy(), scores)), 4),
        "tiles_to_generated_auc": round(float(roc_auc_score(target[held_out], own)), 4),
        "tiles_to_generated_pauc": round(float(pauc(target[held_out], own)), 4),
    }


def pictures(store: TileStore, ids: list[str]) -> torch.Tensor:
    """Tiles as float32 (n, 3, SIDE, SIDE), roughly centred and scaled."""
    small = [
        cv2.resize(store.image(name), (SIDE, SIDE), interpolation=cv2.INTER_AREA) for name in ids
    ]
    return (torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).float() - 150) / 45


def train(tiles: torch.Tensor, target: np.ndarray, seed: int, epochs: int) -> torch.nn.Module:
    """Four convolution blocks on balanced epochs, with flips and changes of brightness and tint."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    widths = [3, 16, 32, 64, 96]
    blocks = [block(*pair) for pair in itertools.pairwise(widths)]
    head = [
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Dropout(0.3),
        torch.nn.Linear(widths[-1], 1),
    ]
    model = torch.nn.Sequential(*blocks, *head)
    positive, negative = np.flatnonzero(target == 1), np.flatnonzero(target == 0)
    steps = 2 * len(positive) // 64
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=epochs * steps)
    for _ in range(epochs):
        order = rng.permutation(np.r_[positive, rng.choice(negative, len(positive), replace=False)])
        for step in range(steps):
            chosen = order[step * 64 : step * 64 + 64]
            logits = model(augmented(tiles[chosen]))[:, 0]
            loss = torch.nn.functional.binary_cross_entropy_with_logits(
                logits, torch.from_numpy(target[chosen]).float()
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return model.eval()


def block(inputs: int, outputs: int) -> torch.nn.Sequential:
    """Convolution, normalisation, rectifier, halving."""
    convolution = torch.nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return torch.nn.Sequential(
        convolution, torch.nn.BatchNorm2d(outputs), torch.nn.ReLU(), torch.nn.MaxPool2d(2)
    )


def augmented(batch: torch.Tensor) -> torch.Tensor:
    """Random flips of the batch; brightness, contrast and tint of each tile."""
    flips = [axis for axis in (2, 3) if torch.rand(()) < 0.5]
    batch = batch.flip(flips) if flips else batch
    n = len(batch)
    gain, shift, tint = (
        1 + 0.1 * torch.randn(n, 1, 1, 1),
        0.25 * torch.randn(n, 1, 1, 1),
        0.12 * torch.randn(n, 3, 1, 1),
    )
    return batch * gain + shift + tint


@torch.no_grad()
def predict(model: torch.nn.Module, tiles: torch.Tensor) -> np.ndarray:
    """Logits (n,)."""
    return np.concatenate([model(part)[:, 0].numpy() for part in tiles.split(256)])


if __name__ == "__main__":
    sys.exit(main())
