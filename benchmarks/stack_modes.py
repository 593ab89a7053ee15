"""Gain of the stacker from features, from images, and from each embedding mode.

`python benchmarks/stack_modes.py [--quick] [--parts] [--planted] [--checkout NAME=FOLDER]…`:
- `parts`: twelve generated populations with simulated networks (stack_populations.py), each stacked
  by `combine: late` and by `combine: columns`, beside the features alone and the images alone.
- `planted`: generated lesions whose fold networks embed one latent picture, each in a space of its
  own. The logit holds one part of the picture's information on malignancy, the embeddings a second
  part; a mode's gain is the share of the second part that is kept despite the different spaces of
  the folds.
- a checkout in which `dvc repro` has finished: its own networks, features and folds, under the NAME
  given.

Every number is the pooled out-of-fold pAUC (and AUC) of scores averaged over several sets of seeds;
each mode is compared with `none` on the same resamples of the patients.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import harness
import numpy as np
import pandas as pd
from scipy.special import logit
from stack_populations import STRENGTHS, draw_population, image_logit

from isic.core.metric import auc, paired_difference, pauc, pauc_interval
from isic.core.params import StackSettings, load_params
from isic.core.paths import Layout
from isic.core.schema import ID, PATIENT, TARGET
from isic.stack.combination import combine, fit_combinations
from isic.stack.fit import fit_training_data, out_of_fold
from isic.stack.inputs import Inputs, read_anchors, read_inputs
from isic.stack.training_data import Anchors, build_training_data
from isic.tabular import build_features
from isic.tabular.thinning import thin_patients

MODES = ("none", "aligned", "full")
#: The one target: no mode beats `none`, the default.
GOAL = "default_not_beaten"
#: Targets of `parts`: pAUC of the late combination minus the better of features and images, by
#: population, and the number of populations in which it is ahead of `combine: columns`.
PARTS_TARGETS = {
    "late_minus_best_mean": 0.0,
    "late_minus_best_lowest_of_393": -0.004,
    "late_minus_best_lowest_of_60": -0.010,
    "late_minus_best_mean_of_60": -0.001,
    "late_ahead_of_columns": 9,
}
#: (malignant lesions, lesions, patients): seeds of no other benchmark or choice.
POPULATIONS = {
    (60, 6_000, 60): (841, 842, 843, 844, 845, 846),
    (393, 100_000, 260): (851, 852, 853, 854, 855, 856),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="about a minute, smaller inputs, numbers are not kept"
    )
    parser.add_argument(
        "--checkout", action="append", default=[], metavar="NAME=FOLDER", help="a finished pipeline"
    )
    parser.add_argument(
        "--planted",
        action="store_true",
        help="also, and without a checkout by default: planted signal",
    )
    parser.add_argument("--parts", action="store_true", help="late combination against its parts")
    options = parser.parse_args()
    repeats = 1 if options.quick else 3
    parts: dict[str, Callable[[], dict[str, Any]]] = {}
    if options.parts:
        parts["parts"] = partial(_against_parts, options.quick)
    if options.planted or not (options.checkout or options.parts):
        parts["planted"] = partial(_planted_signal, options.quick, repeats)
    for named in options.checkout:
        name, _, folder = named.partition("=")
        parts[name] = partial(_checkout, Layout(Path(folder).resolve()), repeats)

    def measure(name: str, part: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        found = part()
        result = {name: found | harness.made()}
        return (
            found.get("figures", {})
            | result
            | {
                GOAL: (
                    None
                    if options.quick
                    else _largest_gain(harness.kept("stack_modes", False) | result)
                )
            }
        )

    def judge(measured: Mapping[str, Any]) -> dict[str, bool | None]:
        found = {GOAL: None if measured[GOAL] is None else measured[GOAL] <= 0}
        return found | {
            name: measured[name] >= bound if name in measured else None
            for name, bound in PARTS_TARGETS.items()
        }

    measured = {name: partial(measure, name, part) for name, part in parts.items()}
    return harness.run_parts(
        "stack_modes", measured, {GOAL: 0.0, **PARTS_TARGETS}, judge, options.quick, ",".join(parts)
    )


def _against_parts(quick: bool) -> dict[str, Any]:
    """pAUC of both ways to combine, of features and of images, in each population."""
    params = load_params(harness.ROOT / "params.yaml")
    families = list(params.features.families)
    settings = params.stack.model_copy(update={"combine": "columns"})
    records = []
    for (positives, lesions, patients), seeds in POPULATIONS.items():
        for number, seed in enumerate(seeds[: 1 if quick else None]):
            if quick and positives != 60:
                continue
            name, strength = list(STRENGTHS.items())[number % len(STRENGTHS)]
            drawn = draw_population(seed, lesions, positives, patients)
            data = build_training_data(
                build_features(drawn.rows, families),
                {"network": image_logit(drawn, strength, seed)},
                drawn.folds,
                settings.images,
                settings.params.max_bin,
                thinned=build_features(thin_patients(drawn.rows), families),
            )
            columns, alone = out_of_fold(data, settings)
            if alone is None:
                raise ValueError("a population without a network")
            design = data.combination_design(alone.log_odds, columns.log_odds)
            weights = fit_combinations(data.target, data.fold, design)
            late = combine(weights, data.fold, design)
            value, owners = partial(pauc, data.target), drawn.folds[PATIENT]
            best = max((design[:, 0], design[:, 2]), key=value)
            records.append(
                {
                    "seed": seed,
                    "malignant": positives,
                    "network": name,
                    "features": value(design[:, 0]),
                    "images": value(design[:, 2]),
                    "columns": value(design[:, 1]),
                    "late": value(late),
                    "late_minus_best": paired_difference(data.target, late, best, owners),
                    "late_minus_columns": paired_difference(
                        data.target, late, design[:, 1], owners
                    ),
                }
            )
            print(records[-1], file=sys.stderr, flush=True)
    differences = {
        count: [record["late_minus_best"][0] for record in records if record["malignant"] == count]
        for count in (60, 393)
    }
    figures = {
        "late_minus_best_mean": float(np.mean([*differences[60], *differences[393]])),
        "late_minus_best_lowest_of_60": min(differences[60]),
        "late_minus_best_mean_of_60": float(np.mean(differences[60])),
        "late_ahead_of_columns": sum(record["late_minus_columns"][0] > 0 for record in records),
    }
    if differences[393]:
        figures["late_minus_best_lowest_of_393"] = min(differences[393])
    return {"populations": records, "figures": {} if quick else figures}


def _planted_signal(quick: bool, repeats: int) -> dict[str, Any]:
    return _measure(*_planted(quick), load_params(harness.ROOT / "params.yaml").stack, repeats)


def _checkout(layout: Layout, repeats: int) -> dict[str, Any]:
    params = load_params(layout.params)
    files = layout.stack_files(params.image.backbones, params.folds)
    inputs = read_inputs(files, embeddings=True, thinned=params.stack.thinned)
    return _measure(inputs, read_anchors(files.embeddings), params.stack, repeats)


def _largest_gain(measured: Mapping[str, Any]) -> float | None:
    """The largest lower bound of a gain over `none` on a checkout: above zero, a mode is better
    beyond chance.
    """
    checkouts = [
        found
        for name, found in measured.items()
        if name != "planted" and isinstance(found, Mapping) and "modes" in found
    ]
    return max(
        (
            mode["gain"][1]
            for found in checkouts
            for mode in found["modes"].values()
            if mode["gain"]
        ),
        default=None,
    )


def _measure(
    inputs: Inputs, anchors: Anchors, settings: StackSettings, repeats: int
) -> dict[str, Any]:
    """pAUC, AUC, gain over `none` and processor seconds of each mode; features alone and the
    networks' mean alone.
    """
    folds = inputs.folds
    plain = _scores(inputs._replace(logits={}, embeddings={}), {}, "none", settings, repeats)[0]
    image = np.zeros(len(folds))
    for values in inputs.logits.values():
        # The scale differs between fold models, so each fold is standardised before pooling.
        image += (
            pd.Series(values)
            .groupby(folds["fold"].to_numpy())
            .transform(lambda v: (v - v.mean()) / v.std())
        )
    records: dict[str, Any] = {
        "lesions": len(folds),
        "positives": int(folds[TARGET].sum()),
        "patients": int(folds[PATIENT].nunique()),
        "networks": {name: values.shape[1] for name, values in inputs.embeddings.items()},
        "features_only": _judged(folds, plain),
        "images_only": _judged(folds, image),
        "modes": {},
    }
    scores = {}
    for mode in MODES:
        scores[mode], seconds, columns = _scores(inputs, anchors, mode, settings, repeats)
        pair = (folds[TARGET], scores[mode], scores["none"], folds[PATIENT])
        gain = None if mode == "none" else paired_difference(*pair)
        records["modes"][mode] = _judged(folds, scores[mode]) | {
            "gain": gain,
            "cpu_seconds": seconds,
            "columns": columns,
        }
        print(mode, records["modes"][mode], file=sys.stderr, flush=True)
    records["both_minus_features"] = paired_difference(
        folds[TARGET], scores["none"], plain, folds[PATIENT]
    )
    records["both_minus_images"] = paired_difference(
        folds[TARGET], scores["none"], image, folds[PATIENT]
    )
    return records


def _judged(folds: pd.DataFrame, score: np.ndarray) -> dict[str, Any]:
    return {
        "pauc": pauc_interval(folds[TARGET], score, folds[PATIENT]),
        "auc": auc(folds[TARGET], score),
    }


def _scores(
    inputs: Inputs, anchors: Anchors, mode: str, settings: StackSettings, repeats: int
) -> tuple[np.ndarray, float, int]:
    """Out-of-fold log-odds averaged over `repeats` sets of seeds, processor seconds of one set,
    columns.
    """
    start = time.process_time()
    images = settings.images.model_copy(update={"embeddings": mode})
    data = build_training_data(
        *inputs[:3],
        images,
        settings.params.max_bin,
        inputs.embeddings,
        anchors,
        thinned=inputs.thinned,
    )
    total = np.zeros(len(inputs.folds))
    for number in range(repeats):
        oof = fit_training_data(data, settings, first_seed=number * settings.seeds).oof
        total += logit(np.clip(oof["score"].to_numpy(), 1e-12, 1 - 1e-12))
    return total / repeats, (time.process_time() - start) / repeats, len(data.columns)


def _planted(quick: bool) -> tuple[Inputs, Anchors]:
    """Latent pictures of 48 parts: eight give measurements, one the malignancy in the logit, one
    further malignancy.
    """
    rng = np.random.default_rng(5)
    lesions, patients, positives, parts = (2000, 20, 40, 48) if quick else (8000, 40, 120, 48)
    owner = rng.integers(0, patients, lesions)
    target = np.zeros(lesions, dtype=np.int64)
    target[rng.choice(lesions, positives, replace=False)] = 1
    measured = (
        rng.normal(size=(lesions, 8))
        + rng.normal(size=(patients, 8))[owner]
        + 0.5 * target[:, None]
    )
    latent = rng.normal(size=(lesions, parts))
    latent[:, :8] = measured + 0.3 * rng.normal(size=(lesions, 8))
    latent[:, 8:10] += 1.5 * target[:, None]
    # Parts differ in scale, as in trained spaces; anchors are unlike the population.
    loudness = np.exp(-np.arange(parts) / 16)
    unseen = 2 + 1.5 * rng.normal(size=(256, parts))
    fold = owner % 5
    vectors, logits = (
        np.empty((lesions, parts), dtype=np.float16),
        np.empty(lesions, dtype=np.float32),
    )
    anchors = {}
    for number in range(5):
        mine = fold == number
        turn = np.linalg.qr(rng.normal(size=(parts, parts)))[0]
        vectors[mine] = (latent[mine] * loudness) @ turn + 0.05 * rng.normal(
            size=(int(mine.sum()), parts)
        )
        anchors[number] = (
            (unseen * loudness) @ turn + 0.05 * rng.normal(size=unseen.shape)
        ).astype(np.float16)
        logits[mine] = (1 + number) * (
            latent[mine, 8] + 0.3 * rng.normal(size=int(mine.sum()))
        ) - number
    ids = [f"ISIC_{row:07d}" for row in range(lesions)]
    features = pd.DataFrame(
        {ID: ids, **{f"measure_{n}": measured[:, n].astype(np.float32) for n in range(8)}}
    )
    folds = pd.DataFrame({ID: ids, PATIENT: owner.astype(str), TARGET: target, "fold": fold})
    return Inputs(features, {"net": logits}, folds, {"net": vectors}), {"net": anchors}


if __name__ == "__main__":
    sys.exit(main())
