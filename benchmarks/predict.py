"""Prediction end to end against its parts run alone, loading, three rows, and the gate at full size.

Uses models/bundle of this checkout (`dvc repro` makes it). Parts: decoding every tile once per model, forward passes,
features, stacker; decoding and forward passes are measured on a tenth of the lesions and scaled, being linear in them.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import numpy as np
import pandas as pd

from isic.core.io import require
from isic.core.metric import paired_difference
from isic.core.paths import Layout
from isic.core.schema import ID, PATIENT, TARGET
from isic.data.sample import write_sample
from isic.data.tables import read_metadata
from isic.data.tiles import TileStore
from isic.registry.bundle import Bundle, load_bundle
from isic.registry.gate import log_loss
from isic.registry.slices import compare_slices
from isic.submit.predict import predict, read_rows
from isic.tabular import build_features

SHARE = 10


def main() -> None:
    quick = harness.arguments(__doc__ or "").quick
    lesions, gate_rows = (2_000, 20_000) if quick else (100_000, 401_059)
    folder = require(Layout.find(harness.ROOT).bundle, "bundle", "run `dvc repro` first")
    with tempfile.TemporaryDirectory() as name:
        raw, out = Path(name) / "raw", Path(name) / "scores.csv"
        write_sample(raw, max(10, lesions // 400), lesions, max(5, lesions // 1000), seed=11)
        three_rows = seconds_of(lambda: three(folder, raw, out))
        bundle = load(folder)
        # Again, with the libraries imported: what is left is hashing and reading the models.
        loading = seconds_of(lambda: load(folder))
        parts = measure_parts(bundle, raw)
        whole = seconds_of(lambda: predict(str(folder), raw / "train-metadata.csv", raw / "train-image.hdf5", out))
        gate = measure_gate(Path(name) / "gate", gate_rows)
    measured = {
        "lesions": lesions,
        "end_to_end_seconds": whole,
        **{f"{part}_seconds": seconds for part, seconds in parts.items()},
        "end_to_end_to_parts": sum(parts.values()) / whole,
        "load_seconds": loading,
        "three_rows_seconds": three_rows,
        "gate_rows": gate_rows,
        "gate_seconds": gate,
        "peak_memory_gb": harness.peak_memory_gb(),
    }
    targets = {"end_to_end_to_parts": 0.85, "load_seconds": 3, "three_rows_seconds": 15, "gate_seconds": 60}
    met: dict[str, bool | None] = {name: measured[name] <= limit for name, limit in targets.items()}
    met["end_to_end_to_parts"] = None if quick else measured["end_to_end_to_parts"] >= 0.85
    met["gate_seconds"] = None if quick else met["gate_seconds"]
    harness.report("predict", measured, targets, met, quick)


def seconds_of(work: Callable[[], Any]) -> float:
    """Wall-clock seconds of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def three(folder: Path, raw: Path, out: Path) -> None:
    """`isic predict` on the three official-form test rows, in a process of its own."""
    files = ["--metadata", str(raw / "test-metadata.csv"), "--images", str(raw / "test-image.hdf5"), "--out", str(out)]
    subprocess.run([sys.executable, "-m", "isic.cli", "predict", "--model", str(folder), *files], check=True)


def load(folder: Path) -> Bundle:
    """Verify a bundle and read its stacker and one image model."""
    from isic.image.artifact import load_model

    bundle = load_bundle(folder)
    _ = bundle.stack
    load_model(next((folder / "image").rglob("config.json")).parent)
    return bundle


def measure_parts(bundle: Bundle, raw: Path) -> dict[str, float]:
    """Seconds of each part alone, for all lesions and models."""
    rows = read_rows(raw / "train-metadata.csv")
    tiles = TileStore(raw / "train-image.hdf5")
    some = rows[ID].tolist()[: len(rows) // SHARE]
    models = [(name, fold) for name in bundle.manifest.backbones for fold in bundle.manifest.folds]
    features = build_features(rows.head(50), list(bundle.manifest.families))
    logits = {name: np.zeros(len(rows), dtype=np.float32) for name in bundle.manifest.backbones}
    times = {
        "decode": SHARE * len(models) * seconds_of(lambda: [tiles.image(name) for name in some]),
        "forward": SHARE * sum(forward(bundle, name, fold, tiles, some) for name, fold in models),
        "features": seconds_of(lambda: build_features(rows, list(bundle.manifest.families))),
    }
    features = build_features(rows, list(bundle.manifest.families))
    times["stacker"] = sum(
        seconds_of(lambda fold=fold: bundle.stack.score(features, logits, fold, rows[PATIENT]))  # type: ignore[misc]
        for fold in bundle.manifest.folds
    )
    return times


def forward(bundle: Bundle, backbone: str, fold: int, tiles: TileStore, ids: list[str]) -> float:
    """Seconds of resizing and forward passes over tiles that are decoded already."""
    import torch

    from isic.image.artifact import load_model
    from isic.image.device import pick
    from isic.image.embed import BATCH, _flipped
    from isic.image.pixels import normalise, pack, resize

    model, device = load_model(bundle.folder / "image" / backbone / f"fold{fold}"), pick()
    net, spec, total = model.net.to(device), model.spec, 0.0
    for begin in range(0, len(ids), BATCH):
        canvas, sizes = pack([tiles.image(name) for name in ids[begin : begin + BATCH]])
        started = time.perf_counter()
        with torch.inference_mode():
            pixels = resize(canvas.to(device), sizes, spec.size, spec.interpolation)
            _flipped(net, normalise(pixels, spec.mean, spec.std), model.tta)[0].cpu()
        total += time.perf_counter() - started
    return total


def measure_gate(folder: Path, count: int) -> float:
    """Seconds of the gate's comparison of two sets of scores, with 1,000 replicates and all slices."""
    write_sample(folder, max(10, count // 385), count, max(50, count // 1020), seed=5, images=False)
    rows = read_metadata(folder / "train-metadata.csv", train=True)
    rng = np.random.default_rng(0)
    noise = [rng.normal(0, 1, count) for _ in range(2)]
    scores = [1 / (1 + np.exp(6 - 3 * rows[TARGET] - each)) for each in noise]
    joined = rows.assign(score=scores[0], score_champion=scores[1])
    return seconds_of(lambda: compare(joined))


def compare(rows: pd.DataFrame) -> None:
    """What `isic.registry.gate` computes from scores."""
    paired_difference(rows[TARGET], rows["score"], rows["score_champion"], rows[PATIENT], 1000, 0)
    list(compare_slices(rows, 15))
    log_loss(rows[TARGET], rows["score"])


if __name__ == "__main__":
    main()
