"""Stacker and search: speed, memory and score against the usual code, and the intervals of the
exact metric.

`python benchmarks/stack.py [--quick] [--only PART,…] [--keep FOLDER]`. Every part runs in a process
of its own, for its peak memory; the sides of a ratio are measured in turn within one part. Parts
can be run one by one: the result file keeps the numbers of the others, with date, commit and
machine of each part. Population: generated rows, features of the committed families, and the
logit of a strong simulated network that correlates with the columns (stack_populations.py).
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import harness
import numpy as np
import pandas as pd
from stack_populations import STRENGTHS, image_logit, with_evidence

from isic.core.folds import make_folds
from isic.core.io import atomic_file, read_parquet, write_parquet
from isic.core.metric import (
    paired_difference,
    patient_weights,
    pauc_interval,
    pauc_replicates,
)
from isic.core.params import StackSettings, load_params, read_yaml
from isic.core.schema import ID, PATIENT, TARGET

OFFICIAL = (1042, 401_059, 393)
QUICK = (40, 6_000, 60)
#: Of both sides of a ratio.
THREADS = int(os.environ.get("OMP_NUM_THREADS", "2"))
#: Seconds after which the pruned search starts no further candidate, and the maximum number: half
#: of the default of `make tune`.
LONGEST, CANDIDATES = 3600, 100
#: Trials of each search by TPE.
TPE_TRIALS = 40
PARTS: dict[str, Callable[[Path, bool], dict[str, Any]]] = {}


def part(
    function: Callable[[Path, bool], dict[str, Any]],
) -> Callable[[Path, bool], dict[str, Any]]:
    """Register a part under its name without the underscore."""
    PARTS[function.__name__.strip("_")] = function
    return function


def main() -> int:
    options = _options()
    if options.part:
        print(json.dumps(PARTS[options.part](Path(options.folder), options.quick)))
        return 0
    chosen = (
        options.only.split(",")
        if options.only
        else [name for name in PARTS if name != "population"]
    )
    unknown = set(chosen) - set(PARTS)
    if unknown:
        raise SystemExit(f"no part {', '.join(sorted(unknown))}: choose from {', '.join(PARTS)}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or temporary
        if not (Path(folder) / "folds.parquet").is_file():
            if options.only:
                _run("population", folder, options.quick, options.samples)
            else:
                chosen = ["population", *chosen]
        parts = {
            name: functools.partial(_run, name, folder, options.quick, options.samples)
            for name in chosen
        }
        return harness.run_parts("stack", parts, TARGETS, _judge, options.quick, options.only)


TARGETS = {
    "interval_seconds": 15,
    "interval_error": 1e-12,
    "trial_speedup": 1.4,
    "trial_pauc_difference": 0.0005,
    "pruned_speedup": 4.0,
    "pruned_best_difference": 0.001,
    "peak_over_matrix": 2.0,
    "peak_over_matrix_wide": 2.0,
    "against_best_recipe": 0.0,
    "cost_share_of_best_recipe": 0.25,
}


def _judge(measured: Mapping[str, Any]) -> dict[str, bool | None]:
    at_least = {"trial_speedup", "pruned_speedup", "against_best_recipe"}
    met: dict[str, bool | None] = {}
    for name, wanted in TARGETS.items():
        value = measured.get(name)
        met[name] = (
            None
            if value is None
            else bool(value >= wanted if name in at_least else value <= wanted)
        )
    return met


@part
def _population(folder: Path, quick: bool) -> dict[str, Any]:
    from isic.data.sample import write_sample
    from isic.data.tables import read_metadata
    from isic.tabular import build_features
    from isic.tabular.thinning import thin_patients

    patients, lesions, positives = QUICK if quick else OFFICIAL
    ready = os.environ.get("ISIC_BENCH_TABLE")
    if ready:
        rows = read_metadata(Path(ready), train=True)
    else:
        write_sample(folder / "raw", patients, lesions, positives, 1, images=False)
        rows = read_metadata(folder / "raw" / "train-metadata.csv", train=True)
    families = list(load_params(harness.ROOT / "params.yaml").features.families)
    features = build_features(rows, families)
    folds = make_folds(rows, 5, 0)
    drawn = with_evidence(rows)
    logit = pd.Series(image_logit(drawn, STRENGTHS["strong"], 0), index=drawn.folds[ID])
    write_parquet(folder / "features.parquet", features)
    write_parquet(folder / "thinned.parquet", build_features(thin_patients(rows), families))
    write_parquet(folder / "folds.parquet", folds.assign(logit=logit.loc[folds[ID]].to_numpy()))
    return {
        "rows": len(features),
        "positives": int(rows[TARGET].sum()),
        "columns": features.shape[1] - 1,
    }


@part
def _interval(folder: Path, quick: bool) -> dict[str, Any]:
    folds = read_parquet(folder / "folds.parquet")
    target, score, patient = (
        folds[TARGET].to_numpy(),
        folds["logit"].to_numpy(),
        folds[PATIENT].to_numpy(),
    )
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
    """One trial of `make tune` by both codes, in turn: the same parameters, folds, seeds, sample
    sizes and rounds.
    """
    from isic.stack.training_data import build_training_data
    from isic.tuning.search import TrialEvaluator
    from isic.tuning.tune import SEEDS

    features, folds, logits = _inputs(folder)
    begin = time.perf_counter()
    settings = _recipe_a(rounds=20 if quick else 300)
    data = build_training_data(features, logits, folds, settings.images, settings.params.max_bin)
    TrialEvaluator(data, SEEDS)
    once = time.perf_counter() - begin
    matrix = pd.DataFrame(data.columns)
    ours, usual, gaps = [], [], []
    for seed in range(0, SEEDS if quick else 3 * SEEDS, SEEDS):
        bench = TrialEvaluator(data, SEEDS, first_seed=seed)
        start = time.perf_counter()
        mine = bench.score(settings)
        ours.append(time.perf_counter() - start)
        start = time.perf_counter()
        theirs = _usual_trials(matrix, data, settings, range(seed, seed + SEEDS))
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
    """The same candidates by both codes, in turn: pruned here, complete in the usual code; the
    first has the current values.
    """
    import optuna

    from isic.stack.training_data import build_training_data
    from isic.tuning.search import TrialEvaluator, as_trial, suggest
    from isic.tuning.study import pruner
    from isic.tuning.tune import SEEDS

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    features, folds, logits = _inputs(folder)
    settings = _recipe_a(rounds=10 if quick else 200)
    data = build_training_data(features, logits, folds, settings.images, settings.params.max_bin)
    matrix = pd.DataFrame(data.columns)
    bench = TrialEvaluator(data, SEEDS)
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.RandomSampler(seed=1), pruner=pruner()
    )
    study.enqueue_trial(as_trial(settings, ()))
    ours, usual, best = _Clock(), _Clock(), 0.0
    speedups: dict[int, float] = {}
    while (
        len(study.trials) < (2 if quick else CANDIDATES) and ours.seconds + usual.seconds < LONGEST
    ):
        trial = study.ask()
        candidate = suggest(trial, settings, ()).model_copy(update={"combine": "columns"})
        with ours:
            try:
                study.tell(trial, bench.score(candidate, trial))
            except optuna.TrialPruned:
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        with usual:
            best = max(best, _usual_trials(matrix, data, candidate, range(SEEDS)))
        speedups[len(study.trials)] = usual.seconds / ours.seconds
    states = [trial.state.name for trial in study.trials]
    return {
        "pruned_speedup": usual.seconds / ours.seconds,
        "pruned_speedup_cpu": usual.cpu / ours.cpu,
        # With more candidates, a smaller share is among the best so far and is completed.
        "pruned_speedup_by_trials": {
            count: speedup for count, speedup in speedups.items() if count % 12 == 0
        },
        "pruned_trials": len(states),
        "pruned_of_them": states.count("PRUNED"),
        "pruned_seconds": ours.seconds,
        "pruned_seconds_usual": usual.seconds,
        "pruned_best": study.best_value,
        "pruned_best_usual": best,
        "pruned_best_difference": abs(study.best_value - best),
    }


@part
def _pruners(folder: Path, quick: bool) -> dict[str, Any]:
    """Searches by TPE from the same seed, each of the same number of trials: our pruner, Optuna's
    MedianPruner and none.
    """
    import optuna

    from isic.stack.training_data import build_training_data
    from isic.tuning.search import TrialEvaluator, as_trial, suggest
    from isic.tuning.study import pruner
    from isic.tuning.tune import SEEDS

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    features, folds, logits = _inputs(folder)
    settings = _recipe_a(rounds=10 if quick else 100)
    data = build_training_data(features, logits, folds, settings.images, settings.params.max_bin)
    bench = TrialEvaluator(data, SEEDS)
    ways = {"ours": pruner(), "median": optuna.pruners.MedianPruner(), "none": None}
    found: dict[str, Any] = {}
    for name, chosen in ways.items():
        study = optuna.create_study(
            direction="maximize",
            sampler=optuna.samplers.TPESampler(seed=1),
            pruner=chosen or optuna.pruners.NopPruner(),
        )
        study.enqueue_trial(as_trial(settings, ()))

        def score(trial: optuna.Trial) -> float:
            candidate = suggest(trial, settings, ()).model_copy(update={"combine": "columns"})
            return bench.score(candidate, trial)

        clock = _Clock()
        with clock:
            study.optimize(score, n_trials=2 if quick else TPE_TRIALS)
        states = [trial.state.name for trial in study.trials]
        found[name] = {
            "seconds": clock.seconds,
            "processor_seconds": clock.cpu,
            "best": study.best_value,
            "pruned": states.count("PRUNED"),
        }
    return {"tpe_trials": 2 if quick else TPE_TRIALS, "tpe": found}


@part
def _memory(folder: Path, quick: bool) -> dict[str, Any]:
    return {"peak_over_matrix": _peak(folder, 0)}


@part
def _memory_wide(folder: Path, quick: bool) -> dict[str, Any]:
    return {"peak_over_matrix_wide": _peak(folder, 1370)}


@part
def _recipes(folder: Path, quick: bool) -> dict[str, Any]:
    """The full preset's stacker, its thinned and features-only members included, against three
    published recipes: same columns, same folds, cost in processor seconds.

    Finished pieces are kept in the folder, so that a stopped comparison resumes (`--keep`).
    """
    from isic.stack.fit import fit_training_data
    from isic.stack.inputs import read_features
    from isic.stack.training_data import build_training_data

    features, folds, logits = _inputs(folder)
    thinned = read_features(Path(folder) / "thinned.parquet")
    settings = _full_preset()
    store = Path(folder) / "recipes"
    start = time.process_time()
    data = build_training_data(
        features, logits, folds, settings.images, settings.params.max_bin, thinned=thinned
    )
    prepared = time.process_time() - start
    scores: dict[str, np.ndarray] = {}
    seconds, models = _pieces(store, data, quick, scores)
    scores["ours"], cost = _piece(
        store, "ours", lambda: fit_training_data(data, settings).oof["score"]
    )
    seconds["ours"] = prepared + cost
    target, patients = data.target, data.folds[PATIENT]
    results = {name: pauc_interval(target, score, patients) for name, score in scores.items()}
    best = max((name for name in results if name != "ours"), key=lambda name: results[name].value)
    return {
        "recipe_pauc": results,
        "recipe_cpu_seconds": seconds,
        "recipe_models": (
            # With images and without them.
            models
            | {
                "ours": 2
                * settings.seeds
                * len(data.images)
                * len(settings.members)
                * len(data.pools)
            }
        ),
        "ours_minus": {
            name: paired_difference(target, scores["ours"], score, patients)
            for name, score in scores.items()
            if name != "ours"
        },
        "best_recipe": best,
        "against_best_recipe": results["ours"].value - results[best].value,
        "cost_share_of_best_recipe": seconds["ours"] / seconds[best],
    }


def _pieces(
    store: Path, data: Any, quick: bool, scores: dict[str, np.ndarray]
) -> tuple[dict[str, float], dict[str, int]]:
    """Add every recipe's out-of-fold scores to `scores`; returns processor seconds and models of
    each.
    """
    import stack_recipes as recipes

    matrix = pd.DataFrame(data.columns, copy=False)
    image = matrix["image_vit"].to_numpy()
    seconds, models = {}, {}
    for name, (recipe, samples) in recipes.RECIPES.items():
        if quick and name == "ensemble":
            continue  # alone it takes minutes
        score, seconds[name], models[name] = np.zeros(len(matrix)), 0.0, 0
        held_out = {number: data.fold == number for number in np.unique(data.fold)}
        for seed in range(1 if quick else min(samples, _options().samples)):
            for number, mask in held_out.items():
                task = functools.partial(recipe, matrix, data.target, mask, seed)
                part, took = _piece(store, f"{name}-{number}-{seed}", task)
                score[mask] += part
                seconds[name] += took
                models[name] += 3 if name == "ensemble" else 1
        for mask in held_out.values():
            if name == "bagged":
                score[mask] = recipes.with_image(score[mask], image[mask])
            elif name == "ensemble":
                score[mask] /= mask.sum()
        scores[name] = score
    return seconds, models


def _piece(store: Path, name: str, make: Callable[[], Any]) -> tuple[np.ndarray, float]:
    """Scores and processor seconds of one task, computed or read."""
    path = store / f"{name}.npz"
    if not path.is_file():
        start = time.process_time()
        score = np.asarray(make())
        took = time.process_time() - start
        with atomic_file(path) as temporary, temporary.open("wb") as stream:
            np.savez(stream, score=score, seconds=took)
    with np.load(path) as kept:
        return kept["score"], float(kept["seconds"])


def _full_preset() -> StackSettings:
    committed = load_params(harness.ROOT / "params.yaml").stack.model_dump()
    preset = read_yaml(harness.ROOT / "pipelines" / "presets" / "full.yaml")["stack"]
    return StackSettings.model_validate(_laid(committed, preset))


def _laid(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    return under | {
        key: _laid(under[key], value) if isinstance(value, dict) else value
        for key, value in over.items()
    }


def _peak(folder: Path, extra: int) -> float:
    """Peak memory without libraries / size of the matrix: reading, binning, one trial."""
    from isic.stack.members import MemberTask, Pool
    from isic.stack.members.lightgbm_ import LIBRARY
    from isic.stack.training_data import build_training_data
    from isic.tuning.search import TrialEvaluator

    # Libraries, and the modules of their first read and training, are loaded before memory is
    # measured.
    read_parquet(folder / "folds.parquet")
    index = np.arange(100)
    LIBRARY.train(
        MemberTask(Pool({"column": index.astype(np.float32)}, index % 2, 255), index, {}, 1, 0)
    )
    watch = _Watch()
    features, folds, logits = _inputs(folder)
    if extra:
        rng = np.random.default_rng(0)
        noise = {
            f"dimension_{number}": rng.random(len(features), dtype=np.float32)
            for number in range(extra)
        }
        features = pd.concat([features, pd.DataFrame(noise, copy=False)], axis=1, copy=False)
        del noise
    settings = _recipe_a(rounds=20)
    data = build_training_data(features, logits, folds, settings.images, settings.params.max_bin)
    TrialEvaluator(data, seeds=1).score(settings)
    return watch.stop() / sum(column.nbytes for column in data.columns.values())


class _Clock:
    """Context manager that sums wall and processor seconds of its blocks."""

    def __init__(self) -> None:
        self.seconds = self.cpu = 0.0

    def __enter__(self) -> None:
        self._start = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._start[0]
        self.cpu += time.process_time() - self._start[1]


class _Watch:
    """Peak resident memory above that at the start."""

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
    return (
        read_features(folder / "features.parquet"),
        folds,
        {"vit": folds.pop("logit").to_numpy(np.float32)},
    )


def _recipe_a(rounds: int) -> StackSettings:
    """The most copied public parameters under our names, 100 benign lesions per malignant one."""
    committed = load_params(harness.ROOT / "params.yaml").stack.model_dump()
    params = {
        "learning_rate": 0.0323, "max_depth": 4, "num_leaves": 16, "feature_fraction": 0.833,
        "feature_fraction_bynode": 0.403, "bagging_fraction": 0.774, "bagging_freq": 4, "min_data_in_leaf": 85,
        "lambda_l1": 0.0876, "lambda_l2": 0.004, "scale_pos_weight": 2.8, "max_bin": 255,
    }  # fmt: skip
    images = committed["images"] | {"noise": 0.0, "relative": False}
    committed |= {"combine": "columns", "thinned": False}
    return StackSettings.model_validate(
        committed
        | {
            "params": params,
            "rounds": rounds,
            "negatives": 100,
            "seeds": 1,
            "drop": (),
            "images": images,
        }
    )


def _usual_trials(matrix: pd.DataFrame, data: Any, settings: StackSettings, seeds: range) -> float:
    """pAUC of the log-odds averaged over seeds, by scikit-learn's partial AUC, converted."""
    total = np.zeros(len(data.target))
    for seed in seeds:
        total += _usual_trial(matrix, data.target, data.fold, settings, seed)
    return _sklearn_pauc(data.target, total)


def _usual_trial(
    matrix: pd.DataFrame, target: np.ndarray, fold: np.ndarray, settings: StackSettings, seed: int
) -> np.ndarray:
    """Log-odds (n,). Per fold: undersample, fit the scikit-learn wrapper, predict."""
    from lightgbm import LGBMClassifier

    from isic.stack.training_data import sample_rows

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
        score[held_out] = model.predict(matrix[held_out], raw_score=True)
    return score


def _sklearn_pauc(target: np.ndarray, score: np.ndarray) -> float:
    """scikit-learn's standardised partial AUC without its scaling: a sort per call."""
    from sklearn.metrics import roc_auc_score

    share = 1 - 0.8
    standardised = roc_auc_score(1 - target, -score, max_fpr=share)
    return float(0.5 * share**2 + (share - 0.5 * share**2) / 0.5 * (standardised - 0.5))


def _run(name: str, folder: str, quick: bool, samples: int) -> dict[str, Any]:
    command = [
        sys.executable,
        __file__,
        "--part",
        name,
        "--folder",
        folder,
        "--samples",
        str(samples),
    ]
    command += ["--quick"] if quick else []
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS), "PYTHONPATH": str(harness.ROOT)}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="a few minutes, smaller inputs, numbers are not kept"
    )
    parser.add_argument("--only", default="", help="parts to run, by name, separated by commas")
    parser.add_argument(
        "--samples",
        type=int,
        default=10,
        help="of the ensemble, for each fold: 10 make its 150 models",
    )
    parser.add_argument(
        "--keep",
        default="",
        help="folder for the population and finished pieces; a rerun uses them",
    )
    parser.add_argument("--part", default="", help=argparse.SUPPRESS)
    parser.add_argument("--folder", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
