"""Stacker and search: speed, memory and score against the usual way, and the exact metric's intervals.

`python benchmarks/stack.py [--quick]`. Every part runs in a process of its own, so that its peak memory is its own;
sides of a ratio take turns inside one part. Population: generated rows, features of the committed families, and a
simulated image logit of pAUC near 0.158, the best single network of FIELD's table.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import numpy as np
import pandas as pd

from isic.core.folds import make_folds
from isic.core.io import read_parquet, write_parquet
from isic.core.metric import paired_difference, patient_weights, pauc, pauc_interval, pauc_replicates
from isic.core.params import Stack as Settings
from isic.core.params import load_params
from isic.core.schema import ID, PATIENT, TARGET

OFFICIAL = (1042, 401_059, 393)
QUICK = (104, 40_000, 100)
THREADS = 2
#: pAUC of the simulated image network, and the d' that gives it on normal scores.
IMAGE = (0.158, 2.13)
PARTS: dict[str, Callable[[Path, bool], dict[str, Any]]] = {}


def part(function: Callable[[Path, bool], dict[str, Any]]) -> Callable[[Path, bool], dict[str, Any]]:
    """Register a part under its name without the underscore."""
    PARTS[function.__name__.strip("_")] = function
    return function


def main() -> None:
    options = _options()
    if options.part:
        print(json.dumps(PARTS[options.part](Path(options.folder), options.quick)))
        return
    measured: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in PARTS:
            if options.only and name not in ("population", *options.only.split(",")):
                continue
            measured |= _run(name, folder, options.quick)
            print(json.dumps({name: measured}), file=sys.stderr, flush=True)
    _finish(measured, options.quick)


def _finish(measured: dict[str, Any], quick: bool) -> None:
    if {"trial_speedup", "pruning_alone_speedup"} <= set(measured):
        # Both sides search the same candidates: what a whole trial saves, times what pruning saves of whole trials.
        measured["pruned_speedup"] = measured["trial_speedup"] * measured["pruning_alone_speedup"]
    targets = {
        "interval_seconds": 15,
        "interval_error": 1e-12,
        "trial_speedup": 2.0,
        "trial_pauc_difference": 0.0005,
        "pruned_speedup": 4.0,
        "pruned_best_difference": 0.001,
        "peak_over_matrix": 2.0,
        "peak_over_matrix_wide": 2.0,
        "against_best_recipe": 0.0,
        "cost_share_of_best_recipe": 0.25,
    }
    at_least = {"trial_speedup", "pruned_speedup", "against_best_recipe"}
    met: dict[str, bool | None] = {}
    for name, wanted in targets.items():
        value = measured.get(name)
        met[name] = None if value is None else bool(value >= wanted if name in at_least else value <= wanted)
    harness.report("stack", measured, targets, met, quick)


@part
def _population(folder: Path, quick: bool) -> dict[str, Any]:
    from isic.data.sample import write_sample
    from isic.data.tables import read_metadata
    from isic.tabular import build_features

    patients, lesions, positives = QUICK if quick else OFFICIAL
    ready = os.environ.get("ISIC_BENCH_TABLE")
    if ready:
        rows = read_metadata(Path(ready), train=True)
    else:
        write_sample(folder / "raw", patients, lesions, positives, 1, images=False)
        rows = read_metadata(folder / "raw" / "train-metadata.csv", train=True)
    families = list(load_params(harness.ROOT / "params.yaml").features.families)
    features = build_features(rows, families)
    rng = np.random.default_rng(0)
    folds = make_folds(rows, 5, 0)
    write_parquet(folder / "features.parquet", features)
    write_parquet(folder / "folds.parquet", folds.assign(logit=rng.normal(size=len(rows)) + IMAGE[1] * rows[TARGET]))
    return {"rows": len(features), "positives": int(rows[TARGET].sum()), "columns": features.shape[1] - 1}


@part
def _interval(folder: Path, quick: bool) -> dict[str, Any]:
    folds = read_parquet(folder / "folds.parquet")
    target, score, patient = folds[TARGET].to_numpy(), folds["logit"].to_numpy(), folds[PATIENT].to_numpy()
    start = time.perf_counter()
    interval = pauc_interval(target, score, patient, 1000)
    seconds = time.perf_counter() - start
    codes = np.unique(patient.astype(str), return_inverse=True)[1]
    brute = 2 if quick else 20
    weights = np.concatenate(list(patient_weights(target, codes, brute, 0)))
    fast = pauc_replicates(target, [score], patient, brute, 0)[0]
    start = time.perf_counter()
    slow = []
    for weight in weights:
        drawn = np.repeat(np.arange(len(target)), weight[codes].astype(int))
        slow.append(_sklearn_pauc(target[drawn], score[drawn]))
    naive = (time.perf_counter() - start) / brute * 1000
    return {
        "interval": interval,
        "interval_seconds": seconds,
        "interval_seconds_naive": naive,
        "interval_error": float(np.abs(fast - slow).max()),
    }


@part
def _trials(folder: Path, quick: bool) -> dict[str, Any]:
    """One trial both ways, in turn: the same parameters, folds, sizes of sample, rounds."""
    from isic.stack.problem import prepare
    from isic.stack.search import Bench

    features, folds, logits = _inputs(folder)
    matrix = features.drop(columns=ID).select_dtypes("number").copy().assign(image_vit=logits["vit"])
    begin = time.perf_counter()
    settings = _recipe_a(rounds=60 if quick else 300)
    problem = prepare(features, logits, folds, settings.evidence, settings.params.max_bin)
    Bench(problem, seeds=1)
    _ = problem.pool.bins
    once = time.perf_counter() - begin
    rounds = 1 if quick else 3
    ours, usual, gaps = [], [], []
    for seed in range(rounds):
        start = time.perf_counter()
        mine = Bench(problem, seeds=1, first_seed=seed).score(settings)
        ours.append(time.perf_counter() - start)
        start = time.perf_counter()
        theirs = _usual_trial(matrix, problem.target, problem.fold, settings, seed)
        usual.append(time.perf_counter() - start)
        gaps.append(mine - theirs)
    return {
        "bin_once_seconds": once,
        "trial_seconds": statistics.median(ours),
        "trial_seconds_usual": statistics.median(usual),
        "trial_speedup": statistics.median(usual) / statistics.median(ours),
        "trial_pauc_difference": abs(float(np.mean(gaps))),
        "trial_pauc_gaps": gaps,
    }


@part
def _pruning(folder: Path, quick: bool) -> dict[str, Any]:
    """The same candidates with and without pruning."""
    import optuna

    from isic.stack.problem import prepare
    from isic.stack.search import Bench, suggest

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    features, folds, logits = _inputs(folder)
    settings = _recipe_a(rounds=40 if quick else 150)
    problem = prepare(features, logits, folds, settings.evidence, settings.params.max_bin)
    bench = Bench(problem, seeds=1 if quick else 2)
    trials = 4 if quick else 20
    result = {}
    for name, pruner in (
        ("whole", optuna.pruners.NopPruner()),
        ("pruned", optuna.pruners.WilcoxonPruner(p_threshold=0.1, n_startup_steps=2)),
    ):
        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=1), pruner=pruner)
        start = time.perf_counter()
        study.optimize(lambda trial: bench.score(suggest(trial, settings, ()), trial), n_trials=trials)
        result[name] = (time.perf_counter() - start, study.best_value)
    return {
        "pruning_alone_speedup": result["whole"][0] / result["pruned"][0],
        "pruned_best_difference": abs(result["whole"][1] - result["pruned"][1]),
    }


@part
def _memory(folder: Path, quick: bool) -> dict[str, Any]:
    return {"peak_over_matrix": _peak(folder, 0)}


@part
def _memory_wide(folder: Path, quick: bool) -> dict[str, Any]:
    return {"peak_over_matrix_wide": _peak(folder, 1370)}


@part
def _recipes(folder: Path, quick: bool) -> dict[str, Any]:
    """The committed stacker against three published recipes on the same columns and folds."""
    import stack_recipes as recipes

    from isic.stack import fit_stack

    features, folds, logits = _inputs(folder)
    target, fold = folds[TARGET].to_numpy(), folds["fold"].to_numpy()
    matrix = features.drop(columns=ID).select_dtypes("number").copy().assign(image_vit=logits["vit"])
    seeds = 1 if quick else int(os.environ.get("ISIC_BENCH_SEEDS", "10"))
    settings = load_params(harness.ROOT / "params.yaml").stack
    sides: dict[str, Callable[[], np.ndarray]] = {
        "ours": lambda: fit_stack(features, logits, folds, settings).oof["score"].to_numpy(),
        "single": lambda: recipes.single(matrix, target, fold, THREADS),
        "bagged": lambda: recipes.bagged(matrix, target, fold, THREADS, 5 if not quick else 2),
        "ensemble": lambda: recipes.ensemble(matrix, target, fold, THREADS, seeds),
    }
    scores, seconds = {}, {}
    for name, side in sides.items():
        start = time.perf_counter()
        scores[name] = side()
        seconds[name] = time.perf_counter() - start
        print(name, pauc(target, scores[name]), seconds[name], file=sys.stderr, flush=True)
    found = {name: pauc(target, score) for name, score in scores.items()}
    best = max((name for name in found if name != "ours"), key=lambda name: found[name])
    gains = {
        name: paired_difference(target, scores["ours"], score, folds[PATIENT])
        for name, score in scores.items()
        if name != "ours"
    }
    return {
        "recipe_pauc": found,
        "recipe_seconds": seconds,
        "recipe_seeds": seeds,
        "ours_minus": gains,
        "best_recipe": best,
        "against_best_recipe": found["ours"] - found[best],
        "cost_share_of_best_recipe": seconds["ours"] / seconds[best],
    }


def _peak(folder: Path, extra: int) -> float:
    """Peak memory above the loaded libraries', over the matrix's size: reading, binning, one trial."""
    import isic.stack.inputs
    import isic.stack.members.light  # noqa: F401  libraries are loaded before memory is watched
    from isic.stack.problem import prepare
    from isic.stack.search import Bench

    watch = _Watch()
    features, folds, logits = _inputs(folder)
    if extra:
        rng = np.random.default_rng(0)
        noise = {f"dimension_{number}": rng.random(len(features), dtype=np.float32) for number in range(extra)}
        features = pd.concat([features, pd.DataFrame(noise, copy=False)], axis=1, copy=False)
        del noise
    settings = _recipe_a(rounds=20)
    problem = prepare(features, logits, folds, settings.evidence, settings.params.max_bin)
    Bench(problem, seeds=1).score(settings)
    return watch.stop() / sum(column.nbytes for column in problem.columns.values())


class _Watch:
    """Peak resident memory over what the process held at the start."""

    def __init__(self) -> None:
        self._start = self._peak = _resident()
        self._on = True
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while self._on:
            self._peak = max(self._peak, _resident())
            time.sleep(0.01)

    def stop(self) -> float:
        self._on = False
        self._thread.join()
        return float(self._peak - self._start)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _inputs(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, np.ndarray]]:
    from isic.stack.inputs import read_features

    folds = read_parquet(folder / "folds.parquet")
    return read_features(folder / "features.parquet"), folds, {"vit": folds.pop("logit").to_numpy(np.float32)}


def _recipe_a(rounds: int) -> Settings:
    """Parameter set A of FIELD in our names, 100 benign lesions per malignant one."""
    committed = load_params(harness.ROOT / "params.yaml").stack.model_dump()
    params = {
        "learning_rate": 0.0323, "max_depth": 4, "num_leaves": 16, "feature_fraction": 0.833,
        "feature_fraction_bynode": 0.403, "bagging_fraction": 0.774, "bagging_freq": 4, "min_data_in_leaf": 85,
        "lambda_l1": 0.0876, "lambda_l2": 0.004, "scale_pos_weight": 2.8, "max_bin": 255,
    }  # fmt: skip
    evidence = committed["evidence"] | {"noise": 0.0, "relative": False}
    return Settings.model_validate(
        committed | {"params": params, "rounds": rounds, "negatives": 100, "seeds": 1, "drop": (), "evidence": evidence}
    )


def _usual_trial(matrix: pd.DataFrame, target: np.ndarray, fold: np.ndarray, settings: Settings, seed: int) -> float:
    """Per fold: undersample, fit the scikit-learn wrapper, predict; scikit-learn's partial AUC, converted."""
    from lightgbm import LGBMClassifier

    from isic.stack.problem import sample_rows

    params = settings.params.model_dump()
    score = np.empty(len(target))
    for number in np.unique(fold):
        held_out = fold == number
        index = sample_rows(target, ~held_out, settings.negatives, [seed, int(number)])
        model = LGBMClassifier(
            n_estimators=settings.rounds,
            n_jobs=THREADS,
            verbosity=-1,
            random_state=seed,
            importance_type="gain",
            **params,
        )
        model.fit(matrix.iloc[index], target[index])
        score[held_out] = model.predict_proba(matrix[held_out])[:, 1]
    return _sklearn_pauc(target, score)


def _sklearn_pauc(target: np.ndarray, score: np.ndarray) -> float:
    """scikit-learn's standardised partial AUC with its scaling undone (FIELD B.1): a sort per call."""
    from sklearn.metrics import roc_auc_score

    share = 1 - 0.8
    standardised = roc_auc_score(1 - target, -score, max_fpr=share)
    return float(0.5 * share**2 + (share - 0.5 * share**2) / 0.5 * (standardised - 0.5))


def _run(name: str, folder: str, quick: bool) -> dict[str, Any]:
    command = [sys.executable, __file__, "--part", name, "--folder", folder, *(["--quick"] if quick else [])]
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS), "PYTHONPATH": str(harness.ROOT)}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="about a minute, smaller inputs, numbers are not kept")
    parser.add_argument("--only", default="", help="parts to run, by name, separated by commas")
    parser.add_argument("--part", default="", help=argparse.SUPPRESS)
    parser.add_argument("--folder", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
