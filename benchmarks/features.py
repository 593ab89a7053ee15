"""Features: speed and memory on an official-size table against the usual pandas code, and the gain
of the families.

`python benchmarks/features.py [--quick] [--only PART]`. Each side reads the CSV in a process of its
own, in turn. Seconds are processor seconds of all threads: they do not depend on other load on the
machine. Wall seconds are recorded too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import features_ladder as ladder
import features_pandas
import features_worlds as worlds
import harness
import numpy as np
import pandas as pd
import sample_blind

from isic.core.folds import make_folds
from isic.core.metric import auc, pauc
from isic.core.params import Params, load_params
from isic.core.schema import ID, PATIENT, TARGET
from isic.data.sample import write_sample
from isic.data.sample.population import population
from isic.data.sample.rows import draw_rows
from isic.data.tables import read_metadata
from isic.stack.fit import fit_stack
from isic.stack.model import Stack
from isic.tabular import build_features, feature_families
from isic.tabular.thinning import thin_patients
from pipelines.families import measure_families

#: Official size: patients, lesions, malignant. The largest patient has 9,184 lesions, as in the
#: official file.
OFFICIAL = (1042, 401_059, 393)
QUICK = (104, 40_000, 60)
#: Threads of both sides of every ratio: the two cores of the targets.
THREADS = {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
TARGETS: dict[str, float] = {
    "default_seconds": 10,
    "everything_seconds": 35,
    "peak_gb": 4,
    "twice_the_rows": 2.2,
    "default_columns": 300,
    "whole_times_faster_by_processor": 4,
    "outlier_factor_times_faster": 5,
    "largest_difference": 1e-6,
    "outlier_factor_largest_difference": 1e-6,
    "real_rows_auc_difference": -0.004,
    "real_rows_auc_upper": 0,
    "blind_pauc_difference": -0.005,
    "blind_pauc_upper": 0,
    "relative_families_win_in_the_relative_world": 0,
    "lesion_families_win_in_the_absolute_world": 0,
}


def main() -> int:
    options = harness.arguments(__doc__ or "", tuple(PARTS))
    params = load_params(harness.ROOT / "params.yaml")
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(Path(folder), options.quick, params)
        parts = {name: partial(part, setting) for name, part in PARTS.items()}
        return harness.run_parts(
            "features", parts, TARGETS, setting.judge, options.quick, options.only
        )


@dataclass
class Setting:
    """Data and settings of all parts."""

    folder: Path
    quick: bool
    params: Params

    @property
    def default(self) -> list[str]:
        return list(self.params.features.families)

    @cached_property
    def csv(self) -> Path:
        csv = _population(self.folder / "once", QUICK if self.quick else OFFICIAL)
        # Kernels are compiled once per checkout, outside the measured time.
        build_features(read_metadata(csv, train=True).head(400))
        return csv

    @property
    def frame(self) -> pd.DataFrame:
        return read_metadata(self.csv, train=True)

    def judge(self, measured: Mapping[str, Any]) -> dict[str, bool | None]:
        """Whether each target is met; None without a number."""
        at_most = ("seconds", "peak_gb", "twice_the_rows", "largest_difference")
        met: dict[str, bool | None] = {}
        for name, target in TARGETS.items():
            value = measured.get(name)
            reached = (
                None
                if value is None
                else value <= target
                if name.endswith(at_most)
                else value >= target
            )
            met[name] = None if reached is None else bool(reached)
        return met


def _population(folder: Path, size: tuple[int, int, int]) -> Path:
    patients, lesions, positives = size
    write_sample(folder, patients, lesions, positives, seed=1, images=False)
    return folder / "train-metadata.csv"


def _twice(csv: Path) -> Path:
    """The rows repeated under other ids and patients, in the same order of ids."""
    path = csv.with_name("twice.csv")
    header, body = csv.read_bytes().split(b"\n", 1)
    again = body.replace(b"ISIC_", b"ISIX_").replace(b"IP_", b"IQ_")
    path.write_bytes(header + b"\n" + body + again)
    return path


def _speed(setting: Setting) -> dict[str, Any]:
    """Seconds, memory and growth with rows, CSV read included."""
    csv, twice = setting.csv, _twice(setting.csv)
    everything = list(feature_families())
    middle = _runs(
        {
            "default": ("isic", csv, setting.default),
            "everything": ("isic", csv, everything),
            "twice": ("isic", twice, setting.default),
            "everything_twice": ("isic", twice, everything),
        },
    )
    pairs = (("default", "twice"), ("everything", "everything_twice"))
    growth = [
        middle[two]["processor_seconds"] / middle[one]["processor_seconds"] for one, two in pairs
    ]
    return {
        "rows": len(setting.frame),
        "default_families": setting.default,
        "default_columns": int(middle["default"]["columns"]),
        "everything_columns": int(middle["everything"]["columns"]),
        "default_seconds": round(middle["default"]["processor_seconds"], 2),
        "default_wall_seconds": round(middle["default"]["total"], 2),
        "everything_seconds": round(middle["everything"]["processor_seconds"], 2),
        "everything_wall_seconds": round(middle["everything"]["total"], 2),
        "peak_gb": round(middle["everything"]["peak_gb"], 2),
        "default_peak_gb": round(middle["default"]["peak_gb"], 2),
        "twice_the_rows": round(max(growth), 2),
    }


def _against_pandas(setting: Setting) -> dict[str, Any]:
    """The usual pandas way as a whole: the same columns, the local outlier factor and the CSV read
    on both sides.
    """
    comparable = features_pandas.supported(setting.default)
    sides = ("pandas", "pandas-grouped-once")
    middle = _runs(
        {"isic": ("isic", setting.csv, [*comparable, "duckling"])}
        | {side: (side, setting.csv, comparable) for side in sides}
    )
    ours, usual, kind = (middle[side] for side in ("isic", *sides))
    return {
        "pandas_families": [*comparable, "local outlier factor"],
        "pandas_seconds": round(usual["processor_seconds"], 2),
        "pandas_wall_seconds": round(usual["total"], 2),
        "pandas_grouped_once_seconds": round(kind["processor_seconds"], 2),
        "pandas_grouped_once_wall_seconds": round(kind["total"], 2),
        "same_families_seconds": round(ours["processor_seconds"], 2),
        "same_families_wall_seconds": round(ours["total"], 2),
        # Wall seconds: both sides may use both cores (n_jobs of scikit-learn).
        "whole_times_faster": round(usual["total"] / ours["total"], 1),
        "whole_times_faster_by_processor": round(
            usual["processor_seconds"] / ours["processor_seconds"], 1
        ),
        "grouped_once_times_faster": round(kind["total"] / ours["total"], 1),
        "grouped_once_times_faster_by_processor": round(
            kind["processor_seconds"] / ours["processor_seconds"], 1
        ),
    }


def _runs(sides: Mapping[str, tuple[str, Path, Sequence[str]]]) -> dict[str, dict[str, float]]:
    """Side → its measurements, by a process of its own."""
    results: dict[str, dict[str, float]] = {}
    for name, side in sides.items():
        results[name] = _measure(*side)
        print(f"{name:17s} {results[name]}", flush=True)
    return results


def _measure(side: str, csv: Path, families: Sequence[str]) -> dict[str, float]:
    script = Path(__file__).with_name("features_measure.py")
    command = [sys.executable, str(script), side, str(csv), ",".join(families)]
    run = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, **THREADS}
    )
    results: dict[str, float] = json.loads(run.stdout.splitlines()[-1])
    return results


def _agreement(setting: Setting) -> dict[str, Any]:
    """Largest difference to the pandas way, relative to values above 1 (features are float32,
    pandas float64).
    """
    frame, families = setting.frame, features_pandas.supported(setting.default)
    ours, theirs = (
        build_features(frame, families),
        features_pandas.build(frame, families, regroup=False),
    )
    if list(ours.columns) != list(theirs.columns):
        raise ValueError("the two sides give different columns")
    worst, where = 0.0, ""
    for name in ours.columns[1:]:
        if ours[name].dtype == np.float32:
            expected = theirs[name].to_numpy(dtype=np.float64)
            away = np.abs(ours[name].to_numpy(dtype=np.float64) - expected) / np.maximum(
                np.abs(expected), 1
            )
            both_missing = np.isnan(expected) & ours[name].isna().to_numpy()
            largest = float(np.where(both_missing, 0.0, np.nan_to_num(away, nan=np.inf)).max())
            worst, where = max((worst, where), (largest, name))
    return {"largest_difference": worst, "largest_difference_in": where}


def _outlier_factor(setting: Setting) -> dict[str, Any]:
    """The local outlier factor alone, in this process, in turn; both from the same columns in
    memory.
    """
    from isic.tabular.families.patient import local_outlier as duckling

    frame = setting.frame
    prepared = _prepared(frame)
    sides: dict[str, Callable[[], np.ndarray]] = {
        "isic": lambda: duckling.outliers(prepared)[0],
        "scikit-learn": (
            lambda: features_pandas.outlier_factor(frame.loc[prepared.index]).to_numpy()
        ),
    }
    seconds: dict[str, float] = {}
    values: dict[str, np.ndarray] = {}
    for name, work in sides.items():
        start = time.process_time()
        values[name] = work()
        seconds[name] = time.process_time() - start
    away = np.abs(values["isic"] - values["scikit-learn"]) / np.maximum(values["scikit-learn"], 1)
    return {
        "outlier_factor_seconds": round(seconds["isic"], 2),
        "scikit_learn_outlier_factor_seconds": round(seconds["scikit-learn"], 2),
        "outlier_factor_times_faster": round(seconds["scikit-learn"] / seconds["isic"], 1),
        "outlier_factor_largest_difference": float(away.max()),
    }


def _prepared(frame: pd.DataFrame) -> pd.DataFrame:
    from isic.tabular.canonical import canonical
    from isic.tabular.registry import lesion_families

    lesions, order = canonical(frame)
    lesions.index = frame.index[order]
    return pd.concat(
        [
            lesions,
            *(
                family.build(lesions).set_axis(lesions.index)
                for family in lesion_families()
                if family.measured
            ),
        ],
        axis=1,
    )


def _ladder(setting: Setting) -> dict[str, Any]:
    """pAUC from raw columns to all families on the same folds, rows and seeds, each against the
    step before.
    """
    frame, default = setting.frame, setting.default
    folds = make_folds(frame, 5, seed=0)
    features = build_features(frame)
    relative = [name for name in default if feature_families()[name].relative]
    rungs = {
        "raw": ["raw"],
        "per lesion": ["raw", *ladder.LESION],
        "patient-relative": ["raw", *ladder.LESION, "patient_z", "patient_rank"],
        "default": ["raw", *ladder.LESION, *relative],
        # The only family outside the default set with a gain beyond chance in `families`, on other
        # rows.
        "default and counts": ["raw", *ladder.LESION, *relative, "patient_counts"],
        "all": list(feature_families()),
    }
    steps, before = [], None
    for name, families in rungs.items():
        score = ladder.out_of_fold(features, folds, families, seeds=1)
        steps.append(ladder.step(name, folds, score, before, replicates=1000))
        print(steps[-1], flush=True)
        before = score
    return {"ladder": steps, "published_ladder": ladder.PUBLISHED}


def _worlds(setting: Setting) -> dict[str, Any]:
    """Lower bounds of the gain of the families that should win, and all scores."""
    results = worlds.compare(seeds=1 if setting.quick else 3)
    return {"worlds": results, **{name: low for name, (_, low, _) in results["winners"].items()}}


def _families(setting: Setting) -> dict[str, Any]:
    """Each family added to raw columns, left out of the default and put into it, by the stacker's
    LightGBM.
    """
    patients, lesions, positives = (60, 3000, 60) if setting.quick else (400, 60_000, 393)
    frame = read_metadata(
        _population(setting.folder / "families", (patients, lesions, positives)), train=True
    )
    stack = setting.params.stack.model_copy(update={"seeds": 1})
    params = setting.params.model_copy(update={"stack": stack})
    folds = make_folds(frame, 3, seed=0)
    results = measure_families(frame, folds, params, lambda line: print(line, flush=True))
    return {"families_rows": lesions, "families_malignant": positives, "families": results}


def _real_rows(setting: Setting) -> dict[str, Any]:
    """Default families against raw columns on the shared real rows, out of fold: the stage's
    stacker without images, five folds by patient, five seeds of folds.
    """
    folder, default = _real_folder(), setting.default
    frame = read_metadata(folder / "tabular" / "train-metadata.csv", train=True)
    pairs = []
    for seed in range(1 if setting.quick else 5):
        folds = make_folds(frame, 5, seed=seed)
        fitted = [_fit(setting, frame, families, folds).oof for families in (default, ["raw"])]
        pairs.append(tuple(oof.set_index(ID).loc[frame[ID], "score"].to_numpy() for oof in fitted))
        print(f"seed {seed}: {[round(auc(frame[TARGET], score), 4) for score in pairs[-1]]}")
    found = ladder.mean_auc_difference(frame[TARGET], pairs, frame[PATIENT])
    return _compared("real_rows", "auc", frame, pairs, found)


def _blind(setting: Setting) -> dict[str, Any]:
    """The same two stackers trained on rows generated blindly, three seeds: the population file is
    fitted to one patient-disjoint half of the shared real rows, the other half is scored (see
    sample_blind.py), both halves pooled.
    """
    folder = setting.folder / "blind"
    folder.mkdir()
    halves = sample_blind.write_halves(_real_folder(), folder)
    rows = pd.concat([other for _, other in halves])
    pairs = []
    for seed in range(1 if setting.quick else 3):
        parts = [_blind_scores(setting, path, other, seed) for path, other in halves]
        pairs.append(tuple(np.concatenate(sides) for sides in zip(*parts, strict=True)))
        print(f"seed {seed}: {[round(pauc(rows[TARGET], score), 4) for score in pairs[-1]]}")
    found = ladder.mean_pauc_difference(rows[TARGET], pairs, rows[PATIENT])
    return _compared("blind", "pauc", rows, pairs, found)


def _blind_scores(
    setting: Setting, path: Path, real: pd.DataFrame, seed: int
) -> tuple[np.ndarray, ...]:
    """Scores of the real rows by the default families, then by raw columns; three folds as in the
    demo, each row's score is the mean over the chains.
    """
    size = QUICK if setting.quick else OFFICIAL
    frame = draw_rows(population(path), seed, *size).frame
    folds = make_folds(frame, 3, seed=0)
    scores = []
    for families in (setting.default, ["raw"]):
        stack = _fit(setting, frame, families, folds)
        features = build_features(real, families)
        scores.append(
            np.mean(
                [stack.score(features, {}, fold, real[PATIENT]) for fold in stack.folds], axis=0
            )
        )
    return tuple(scores)


def _fit(setting: Setting, frame: pd.DataFrame, families: Sequence[str], folds: Any) -> Stack:
    """The stage's stacker. Raw columns do not change with the patient's lesions: no thinning."""
    relative = any(feature_families()[name].relative for name in families)
    return fit_stack(
        build_features(frame, families),
        {},
        folds,
        setting.params.stack,
        thinned=build_features(thin_patients(frame), families) if relative else None,
    )


def _real_folder() -> Path:
    folder = harness.real_data()
    if folder is None:
        raise harness.NotMeasured("no real data: set ISIC_REAL_DATA")
    return folder


def _compared(
    name: str,
    metric: str,
    rows: pd.DataFrame,
    pairs: Sequence[tuple[np.ndarray, ...]],
    difference: Sequence[float],
) -> dict[str, Any]:
    """Rows, difference with its interval, and each seed's value of both sides, under `name`; the
    difference and its upper end once more for the targets.
    """
    value = {"auc": auc, "pauc": pauc}[metric]
    return {
        name: {
            "rows": len(rows),
            "malignant": int(rows[TARGET].sum()),
            "patients": int(rows[PATIENT].nunique()),
            "difference": list(difference),
            "seeds": [
                {
                    "default": round(value(rows[TARGET], default), 4),
                    "raw": round(value(rows[TARGET], raw), 4),
                }
                for default, raw in pairs
            ],
        },
        f"{name}_{metric}_difference": difference[0],
        f"{name}_{metric}_upper": difference[2],
    }


#: Values of `--only`: speed needs an idle machine, the scores do not.
PARTS: dict[str, Callable[[Setting], dict[str, Any]]] = {
    "speed": _speed,
    "pandas": _against_pandas,
    "values": _agreement,
    "outlier_factor": _outlier_factor,
    "ladder": _ladder,
    "families": _families,
    "worlds": _worlds,
    "real_rows": _real_rows,
    "blind": _blind,
}


if __name__ == "__main__":
    sys.exit(main())
