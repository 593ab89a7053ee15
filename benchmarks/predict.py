"""Prediction: end to end against its parts, memory against size, loading, three rows, and the gate.

Needs a bundle: `dvc repro` makes models/bundle, `--bundle FOLDER` names another. 100,000 generated
lesions are scored by the chain of the bundle's first fold (one image model a backbone): further
folds repeat the same work; for memory 10,000 and 500,000. Parts are decoding every tile once per
model, forward passes, features and stacker; decoding and forward passes are linear, so they are
measured on a tenth of the lesions and scaled.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import harness
import numpy as np
import pandas as pd

from isic.core.io import write_csv, write_parquet
from isic.core.params import load_params
from isic.core.paths import Layout
from isic.core.schema import ID, PATIENT, TARGET, TEST_COLUMNS
from isic.data.patient_chunks import open_chunked
from isic.data.sample import write_sample
from isic.data.tables import read_metadata
from isic.data.tiles import TileStore
from isic.evaluate.slice_gains import compare_slices
from isic.predict.bundle import Bundle, load_bundle
from isic.predict.files import score
from isic.predict.rows import CHUNK_ROWS
from isic.registry import gate
from isic.tabular import build_features

SHARE = 10


PARTS = ("prediction", "memory", "gate")
#: Per target of the issue, sign and bound.
GOALS = {
    "end_to_end_to_parts": (">=", 0.85),
    "load_seconds": ("<=", 3.0),
    "three_rows_seconds": ("<=", 15.0),
    "gate_seconds": ("<=", 60.0),
}


def main() -> int:
    chosen = options()
    if chosen.score:
        whole(chosen.bundle, chosen.score)
        return 0
    bundle = chosen.bundle or Layout.find(harness.ROOT).bundle
    lesions = 2_000 if chosen.quick else 100_000
    few, many = (500, 2_000) if chosen.quick else (10_000, 500_000)
    with tempfile.TemporaryDirectory() as name:
        parts: dict[str, Callable[[], dict[str, float]]] = {
            "prediction": lambda: measure_prediction(
                existing(bundle), Path(name), lesions, chosen.data
            ),
            "memory": lambda: measure_memory(existing(bundle), few, many),
            "gate": lambda: measure_gate(Path(name) / "gate", 20_000 if chosen.quick else 401_059),
        }
        targets = {target: f"{sign} {bound:g}" for target, (sign, bound) in GOALS.items()}
        return harness.run_parts("predict", parts, targets, judge, chosen.quick, chosen.only)


def judge(measured: Mapping[str, float]) -> dict[str, bool | None]:
    """Whether each target is met; None without a number."""
    met: dict[str, bool | None] = dict.fromkeys(GOALS)
    for target, (sign, bound) in GOALS.items():
        if target in measured:
            met[target] = measured[target] >= bound if sign == ">=" else measured[target] <= bound
    return met


def existing(bundle: Path) -> Path:
    """The bundle's folder. Raises NotMeasured where there is none."""
    if not bundle.is_dir():
        raise harness.NotMeasured(f"no bundle in {bundle}: run `dvc repro` or use --bundle")
    return bundle


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="about a minute, smaller inputs, numbers are not kept"
    )
    parser.add_argument(
        "--only", choices=PARTS, help="measure this part; the kept numbers of the others stay"
    )
    parser.add_argument(
        "--bundle", type=Path, help="a bundle folder instead of this checkout's models/bundle"
    )
    parser.add_argument(
        "--data", type=Path, help="folder of the generated lesions, reused if it exists"
    )
    parser.add_argument("--score", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def measure_prediction(
    folder: Path, work: Path, lesions: int, data: Path | None
) -> dict[str, float]:
    """Prediction of `lesions` generated lesions, whole and in parts, and its start."""
    raw = generated(work, lesions, data)
    three_rows = spent(lambda: three(folder, raw, work / "scores.csv"))
    bundle = load(folder)
    # Again with imported libraries: measures hashing and reading the models.
    loading = spent(lambda: load(folder))
    parts = measure_parts(bundle, raw)
    large = elsewhere(folder, raw)
    models = len(bundle.manifest.backbones)
    return {
        "lesions": lesions,
        "image_models": models,
        "end_to_end_seconds": large["wall"],
        "end_to_end_processor_seconds": large["processor"],
        **{f"{part}_seconds": each.wall for part, each in parts.items()},
        **{f"{part}_processor_seconds": each.processor for part, each in parts.items()},
        "end_to_end_to_parts": sum(each.wall for each in parts.values()) / large["wall"],
        "end_to_end_to_parts_processor": (
            sum(each.processor for each in parts.values()) / large["processor"]
        ),
        "images_per_second": models * lesions / large["wall"],
        "load_seconds": loading.wall,
        "load_processor_seconds": loading.processor,
        "three_rows_seconds": three_rows.wall,
        "three_rows_processor_seconds": three_rows.processor,
    }


def measure_memory(folder: Path, few: int, many: int) -> dict[str, float]:
    """Peak memory of predicting `few` and `many` lesions: only the rows of the table grow, not the
    tiles in memory.
    """
    low, high = (
        elsewhere(folder, harness.official(lesions, images=True))["peak_gb"]
        for lesions in (few, many)
    )
    return {
        "memory_lesions": many,
        "peak_memory_gb": high,
        "memory_lesions_few": few,
        "peak_memory_gb_few": low,
        "memory_per_lesion_kb": 1e6 * (high - low) / (many - few),
    }


def generated(work: Path, lesions: int, data: Path | None) -> Path:
    """The folder of generated lesions, written if absent."""
    raw = data or work / "raw"
    if not (raw / "train-image.hdf5").is_file():
        patients, positives = max(10, lesions // 400), max(5, lesions // 1000)
        words = f"--patients {patients} --lesions {lesions} --positives {positives} --seed 11"
        # In a process of its own: after it, forward passes in the same one took six times as long.
        subprocess.run(
            [sys.executable, "-m", "isic.cli", "sample", "--out", str(raw), *words.split()],
            check=True,
        )
    return raw


class Spent(NamedTuple):
    """Wall seconds, and processor seconds with those of child processes, which do not depend on
    other load.
    """

    wall: float
    processor: float

    def times(self, factor: float) -> Spent:
        return Spent(self.wall * factor, self.processor * factor)


def spent(work: Callable[[], Any]) -> Spent:
    """Seconds of one call."""
    wall, used = time.perf_counter(), sum(os.times()[:4])
    work()
    return Spent(time.perf_counter() - wall, sum(os.times()[:4]) - used)


def whole(folder: Path, raw: Path) -> None:
    """Predict from files to a file in this process; prints seconds, without imports, and peak
    memory.
    """
    load(folder)

    def work() -> None:
        bundle, out = load_bundle(folder), Path(name) / "scores.csv"
        fold = bundle.manifest.folds[:1]
        with open_chunked(raw / "train-metadata.csv", CHUNK_ROWS) as rows:
            write_csv(out, score(bundle, rows, raw / "train-image.hdf5", out, folds=fold))

    with tempfile.TemporaryDirectory() as name:
        print(json.dumps({**spent(work)._asdict(), "peak_gb": own_peak_gb()}))


def own_peak_gb() -> float:
    """Peak resident memory of this program; `getrusage` would include the parent's."""
    (line,) = [
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    ]
    return int(line.split()[1]) * 1024 / 1e9


def elsewhere(folder: Path, raw: Path) -> dict[str, float]:
    """`whole` in a process of its own, for its peak memory."""
    command = [sys.executable, __file__, "--bundle", str(folder), "--score", str(raw)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def three(folder: Path, raw: Path, out: Path) -> None:
    """`isic predict` on the three official-form test rows, in a process of its own."""
    files = [
        "--metadata",
        str(raw / "test-metadata.csv"),
        "--images",
        str(raw / "test-image.hdf5"),
        "--out",
        str(out),
    ]
    subprocess.run(
        [sys.executable, "-m", "isic.cli", "predict", "--model", str(folder), *files], check=True
    )


def load(folder: Path) -> Bundle:
    """Verify a bundle and read its stacker and one image model."""
    from isic.image.network.artifact import load_model

    bundle = load_bundle(folder)
    _ = bundle.stack
    load_model(next((folder / "image").rglob("config.json")).parent)
    return bundle


def measure_parts(bundle: Bundle, raw: Path) -> dict[str, Spent]:
    """Seconds of each part alone, for all lesions and one fold's models."""
    rows = read_metadata(raw / "train-metadata.csv", train=True)[list(TEST_COLUMNS)]
    tiles = TileStore(raw / "train-image.hdf5")
    some = rows[ID].tolist()[: len(rows) // SHARE]
    fold = bundle.manifest.folds[0]
    families = list(bundle.manifest.families)
    build_features(rows.head(50), families)  # compiles its kernels
    features = pd.DataFrame()

    def build() -> None:
        nonlocal features
        features = build_features(rows, families)

    logits = {name: np.zeros(len(rows), dtype=np.float32) for name in bundle.manifest.backbones}
    return {
        "decode": spent(lambda: [tiles.image(name) for name in some]).times(SHARE * len(logits)),
        "forward": forward(bundle, fold, tiles, some).times(SHARE),
        "features": spent(build),
        "stacker": spent(lambda: bundle.stack.score(features, logits, fold, rows[PATIENT])),
    }


def forward(bundle: Bundle, fold: int, tiles: TileStore, ids: list[str]) -> Spent:
    """Resizing and forward passes of a fold's models over decoded tiles."""
    import torch

    from isic.image.network.artifact import load_model
    from isic.image.network.device import pick
    from isic.image.network.embed import BATCH, augmented_forward
    from isic.image.network.pixels import normalise, pack, resize

    device, total = pick(), Spent(0.0, 0.0)
    for backbone in bundle.manifest.backbones:
        model = load_model(bundle.folder / "image" / backbone / f"fold{fold}")
        net, spec = model.net.to(device), model.spec
        for begin in range(0, len(ids), BATCH):
            decoded = [tiles.image(name) for name in ids[begin : begin + BATCH]]

            def work(decoded=decoded, net=net, spec=spec, tta=model.tta) -> None:  # type: ignore[no-untyped-def]
                canvas, sizes = pack(decoded)
                with torch.inference_mode():
                    pixels = resize(canvas.to(device), sizes, spec.size, spec.interpolation)
                    augmented_forward(net, normalise(pixels, spec.mean, spec.std), tta)[0].cpu()

            each = spent(work)
            total = Spent(total.wall + each.wall, total.processor + each.processor)
    return total


def measure_gate(folder: Path, count: int) -> dict[str, float]:
    """Seconds of the gate's comparison of two stored sets of scores, from files to checks, with the
    committed params.
    """
    layout = Layout(folder)
    write_sample(
        layout.raw, max(10, count // 385), count, max(50, count // 1020), seed=5, images=False
    )
    rows = read_metadata(layout.train_metadata, train=True)
    rng = np.random.default_rng(0)
    fold = pd.factorize(rows[PATIENT])[0] % 5
    files = [folder / "challenger.parquet", folder / "champion.parquet"]
    for file in files:
        score = 1 / (1 + np.exp(6 - 3 * rows[TARGET] - rng.normal(0, 1, count)))
        write_parquet(file, rows[[ID, PATIENT, TARGET]].assign(fold=fold, score=score))
    used = spent(lambda: compare(layout, files))
    return {"gate_rows": count, "gate_seconds": used.wall, "gate_processor_seconds": used.processor}


def compare(layout: Layout, files: list[Path]) -> None:
    """The part of `isic.registry.gate.judge` that compares scores, without the reload in a fresh
    process.
    """
    settings = load_params(harness.ROOT / "params.yaml").gate
    rows = gate.joined(*(pd.read_parquet(file) for file in files))
    gate._gain(settings, rows, 1)
    gate._calibration(settings, rows)
    list(
        compare_slices(
            gate.add_metadata(rows, layout.train_metadata),
            settings.min_slice_positives,
            settings.replicates,
            settings.seed,
        )
    )


if __name__ == "__main__":
    sys.exit(main())
