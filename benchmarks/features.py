"""Features: speed and memory on an official-size table against the usual pandas way, and what the families are worth.

`python benchmarks/features.py [--quick]`. All sides read the CSV, in a process of their own, in turn.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import features_ladder as ladder
import features_pandas
import features_worlds as worlds
import harness
import numpy as np
import pandas as pd

from isic.core.folds import make_folds
from isic.core.params import load_params
from isic.core.schema import PATIENT, TARGET
from isic.data.sample import write_sample
from isic.data.tables import read_metadata
from isic.tabular import build_features, feature_families

#: Official size: patients, lesions, malignant. The generator gives the largest patient its 9,184 lesions.
OFFICIAL = (1042, 401_059, 393)
QUICK = (104, 40_000, 60)
#: Both sides of every ratio run on as many threads as the targets' two cores.
THREADS = {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}


def main() -> None:
    options = harness.arguments(__doc__ or "")
    default = list(load_params(harness.ROOT / "params.yaml").features.families)
    with tempfile.TemporaryDirectory() as folder:
        csv = _population(Path(folder), QUICK if options.quick else OFFICIAL)
        speed = _speed(csv, default, rounds=1 if options.quick else 2)
        agreement = _agreement(csv, default)
        lof = _outlier_factor(csv, rounds=1 if options.quick else 2)
        steps = _ladder(csv, default, seeds=1)
    measured: dict[str, Any] = {**speed, **agreement, **lof, "ladder": steps, "published_ladder": ladder.PUBLISHED}
    measured["worlds"] = worlds.compare(seeds=1 if options.quick else 3)
    measured["real_rows"] = _real_rows(default)
    _finish(measured, options.quick)


def _finish(measured: dict[str, Any], quick: bool) -> None:
    real = measured["real_rows"]
    targets: dict[str, Any] = {
        "default_seconds": 10,
        "everything_seconds": 35,
        "peak_gb": 4,
        "twice_the_rows": 2.2,
        "default_columns": 300,
        "whole_times_faster": 5,
        "outlier_factor_times_faster": 5,
        "largest_difference": 1e-6,
        "real_rows_auc_low": -0.005,
        "relative_families_win_in_the_relative_world": 0,
        "lesion_families_win_in_the_absolute_world": 0,
    }
    at_most = ("default_seconds", "everything_seconds", "peak_gb", "twice_the_rows", "largest_difference")
    values = {**measured, "real_rows_auc_low": real and real["difference"][1]}
    values |= {name: measured["worlds"][name][1] for name in targets if name.endswith("world")}
    full_only = ("default_seconds", "everything_seconds", "peak_gb", "default_columns") if quick else ()
    met: dict[str, bool | None] = {}
    for name, target in targets.items():
        value = values[name]
        known = value is not None and name not in full_only
        met[name] = bool(value <= target if name in at_most else value >= target) if known else None
    harness.report("features", measured, targets, met, quick)


def _population(folder: Path, size: tuple[int, int, int]) -> Path:
    patients, lesions, positives = size
    write_sample(folder / "once", patients, lesions, positives, seed=1, images=False)
    return folder / "once" / "train-metadata.csv"


def _twice(csv: Path) -> Path:
    """The same rows again under other ids and patients, in the same order of ids."""
    path = csv.with_name("twice.csv")
    header, body = csv.read_bytes().split(b"\n", 1)
    again = body.replace(b"ISIC_", b"ISIX_").replace(b"IP_", b"IQ_")
    path.write_bytes(header + b"\n" + body + again)
    return path


def _speed(csv: Path, default: Sequence[str], rounds: int) -> dict[str, Any]:
    twice = _twice(csv)
    everything = list(feature_families())
    comparable = features_pandas.supported(default)
    sides = {
        "default": ("isic", csv, default),
        "everything": ("isic", csv, everything),
        "twice": ("isic", twice, default),
        "everything_twice": ("isic", twice, everything),
        "comparable": ("isic", csv, [*comparable, "duckling"]),
        "pandas": ("pandas", csv, comparable),
    }
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for number in range(rounds):
        for name, (side, path, families) in sides.items():
            # The slow side once: its ratio is far from its target.
            if name != "pandas" or number == 0:
                runs[name].append(_measure(side, path, families))
                print(f"round {number} {name:17s} {runs[name][-1]}", flush=True)
    middle = {name: _median(found) for name, found in runs.items()}
    return {
        "rows": len(read_metadata(csv, train=True)),
        "default_families": list(default),
        "default_columns": int(middle["default"]["columns"]),
        "everything_columns": int(middle["everything"]["columns"]),
        "default_seconds": round(middle["default"]["total"], 2),
        "default_reading_seconds": round(middle["default"]["read"], 2),
        "everything_seconds": round(middle["everything"]["total"], 2),
        "peak_gb": round(middle["everything"]["peak_gb"], 2),
        "default_peak_gb": round(middle["default"]["peak_gb"], 2),
        "twice_the_rows": round(
            max(
                middle["twice"]["total"] / middle["default"]["total"],
                middle["everything_twice"]["total"] / middle["everything"]["total"],
            ),
            2,
        ),
        "pandas_families": [*comparable, "local outlier factor"],
        "pandas_seconds": round(middle["pandas"]["total"], 2),
        "pandas_outlier_factor_seconds": round(middle["pandas"]["lof"], 2),
        "same_families_seconds": round(middle["comparable"]["total"], 2),
        "whole_times_faster": round(middle["pandas"]["total"] / middle["comparable"]["total"], 1),
    }


def _measure(side: str, csv: Path, families: Sequence[str]) -> dict[str, float]:
    script = Path(__file__).with_name("features_measure.py")
    command = [sys.executable, str(script), side, str(csv), ",".join(families)]
    run = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **THREADS})
    found: dict[str, float] = json.loads(run.stdout.splitlines()[-1])
    return found


def _median(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def _agreement(csv: Path, default: Sequence[str]) -> dict[str, Any]:
    """Largest difference to the pandas way, relative to values above 1 (features are float32, pandas float64)."""
    families = features_pandas.supported(default)
    frame = read_metadata(csv, train=True)
    ours, theirs = build_features(frame, families), features_pandas.build(frame, families)
    if list(ours.columns) != list(theirs.columns):
        raise ValueError("the two sides give different columns")
    worst, where = 0.0, ""
    for name in ours.columns[1:]:
        if ours[name].dtype == np.float32:
            expected = theirs[name].to_numpy(dtype=np.float64)
            away = np.abs(ours[name].to_numpy(dtype=np.float64) - expected) / np.maximum(np.abs(expected), 1)
            both_missing = np.isnan(expected) & ours[name].isna().to_numpy()
            largest = float(np.where(both_missing, 0.0, np.nan_to_num(away, nan=np.inf)).max())
            worst, where = max((worst, where), (largest, name))
    return {"largest_difference": worst, "largest_difference_in": where}


def _outlier_factor(csv: Path, rounds: int) -> dict[str, Any]:
    """The local outlier factor alone, in this process, in turn; both from the same columns in memory."""
    from isic.tabular.families.patient import duckling

    frame = read_metadata(csv, train=True)
    prepared = _prepared(frame)
    ours = build_features(frame, ["duckling"])["duckling_lof"].to_numpy(dtype=np.float64)
    theirs = features_pandas.outlier_factor(frame).to_numpy()
    seconds: dict[str, list[float]] = {"isic": [], "scikit-learn": []}
    for _ in range(rounds):
        for side, work in (
            ("isic", lambda: duckling.outliers(prepared)),
            ("scikit-learn", lambda: features_pandas.outlier_factor(frame)),
        ):
            start = time.perf_counter()
            work()
            seconds[side].append(time.perf_counter() - start)
    middle = {side: statistics.median(values) for side, values in seconds.items()}
    return {
        "outlier_factor_seconds": round(middle["isic"], 2),
        "scikit_learn_outlier_factor_seconds": round(middle["scikit-learn"], 2),
        "outlier_factor_times_faster": round(middle["scikit-learn"] / middle["isic"], 1),
        "outlier_factor_largest_difference": float(np.max(np.abs(ours - theirs) / np.maximum(theirs, 1))),
    }


def _prepared(frame: pd.DataFrame) -> pd.DataFrame:
    from isic.tabular.canonical import canonical
    from isic.tabular.registry import lesion_families

    lesions, _ = canonical(frame)
    return pd.concat([lesions, *(family.build(lesions) for family in lesion_families() if family.measured)], axis=1)


def _ladder(csv: Path, default: Sequence[str], seeds: int) -> list[dict[str, object]]:
    frame = read_metadata(csv, train=True)
    folds = make_folds(frame, 5, seed=0)
    features = build_features(frame)
    relative = [name for name in default if feature_families()[name].relative]
    rungs = {
        "raw": ["raw"],
        "per lesion": ["raw", *ladder.LESION],
        "patient-relative": ["raw", *ladder.LESION, "patient_z", "patient_rank"],
        "default": ["raw", *ladder.LESION, *relative],
        "all": list(feature_families()),
    }
    steps, before = [], None
    for name, families in rungs.items():
        score = ladder.out_of_fold(features, folds, families, seeds)
        steps.append(ladder.step(name, folds, score, before, replicates=1000))
        print(steps[-1], flush=True)
        before = score
    return steps


def _real_rows(default: Sequence[str]) -> dict[str, Any] | None:
    """Default families against raw columns on the real rows: patient-grouped 5 folds × 10 seeds."""
    folder = harness.real_data()
    if folder is None:
        return None
    frame = read_metadata(folder / "tabular" / "train-metadata.csv", train=True)
    features = build_features(frame, sorted({"raw", *default}))
    total = {"raw": np.zeros(len(frame)), "default": np.zeros(len(frame))}
    for seed in range(10):
        folds = make_folds(frame, 5, seed=seed)
        for name, families in (("raw", ["raw"]), ("default", default)):
            total[name] += ladder.out_of_fold(features, folds, families, 1, negatives=None)
    difference = ladder.auc_difference(frame[TARGET], total["default"], total["raw"], frame[PATIENT])
    return {
        "rows": len(frame),
        "malignant": int(frame[TARGET].sum()),
        "difference": difference,
        "auc": {name: round(ladder.auc(frame[TARGET], score), 4) for name, score in total.items()},
    }


if __name__ == "__main__":
    main()
