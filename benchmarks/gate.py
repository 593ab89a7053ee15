"""Rate of promotions by the gate, of challengers without and with a real gain.

`python benchmarks/gate.py [--quick] [--only fitted|simulated]`. Two parts: - `fitted`: stackers of
one recipe and other seeds on generated rows (393 malignant lesions of 1,042 patients, 40,000
lesions, no images). Their pairs differ by chance only. Other recipes, each without one feature
family, give the spread of a real change. - `simulated`: independent pairs of score tables with 393
malignant lesions. A lesion's score is its signal, plus noise of the recipe, plus noise of each of
four seeds; both kinds of noise are set so that the pAUC, its spread over seeds and the paired
spread between recipes are those of `fitted` or wider. A gain is a signal scaled up; its true size
is the difference on 400,000 further lesions.

Both call the gate's own check. `before` is the earlier rule: a gain of at least 0 whose 95 %
interval over patients begins above −.005.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import harness
import numpy as np
import pandas as pd

from isic.core.folds import make_folds
from isic.core.metric import paired_difference, pauc
from isic.core.params import Gate, load_params
from isic.core.schema import PATIENT, TARGET
from isic.data.tables import read_metadata
from isic.evaluate.paired_gain import chance_of
from isic.registry.gate import _gain, gain_over_champion, joined
from isic.stack.fit import fit_training_data
from isic.stack.training_data import build_training_data
from isic.tabular import build_features

TARGETS = {"promoted_of_200_without_gain": 10, "power_at_004": 0.5, "power_at_006": 0.8}
SEEDS = 4
ATTEMPTS = (1, 3, 10)
GAINS = (0.0, 0.002, 0.004, 0.006, 0.008, 0.010)
#: Signal of malignant lesions, and the noise of a recipe and of one seed, in units of the benign
#: spread.
SIGNAL, SIGNAL_SD, RECIPE, SEED = 3.45, 1.35, 0.17, 0.16


def main() -> int:
    options = harness.arguments(__doc__.splitlines()[0], ("fitted", "simulated"))
    settings = load_params(harness.ROOT / "params.yaml").gate
    parts = {
        "fitted": partial(_fitted, settings, options.quick),
        "simulated": partial(_simulated, settings, options.quick),
    }
    return harness.run_parts("gate", parts, TARGETS, _judge, options.quick, options.only)


def _judge(measured: Mapping[str, Any]) -> dict[str, bool | None]:
    lucky, small, large = (measured.get(name) for name in TARGETS)
    return {
        "promoted_of_200_without_gain": None if lucky is None else lucky <= 10,
        "power_at_004": None if small is None else small >= 0.5,
        "power_at_006": None if large is None else large >= 0.8,
    }


def _fitted(settings: Gate, quick: bool) -> dict[str, Any]:
    params = load_params(harness.ROOT / "params.yaml")
    size = ("200", "4000", "60") if quick else ("1042", "40000", "393")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "isic.cli", "sample", "--out", folder, "--no-images"]
        flags = (
            "--patients",
            size[0],
            "--lesions",
            size[1],
            "--positives",
            size[2],
            "--seed",
            "91",
        )
        subprocess.run([*command, *flags], check=True, stdout=subprocess.DEVNULL)
        rows = read_metadata(Path(folder) / "train-metadata.csv", train=True)
    folds = make_folds(rows, len(params.folds), seed=0)
    families = list(params.features.families)
    stack = params.stack.model_copy(update={"rounds": 20} if quick else {})
    data = build_training_data(
        build_features(rows, families), {}, folds, stack.images, stack.params.max_bin
    )
    tables = [
        fit_training_data(data, stack, first_seed=SEEDS * item).oof
        for item in range(2 if quick else 7)
    ]
    pairs = [joined(new, old) for new in tables for old in tables if new is not old]
    recipes = [
        fit_training_data(data, stack.model_copy(update={"drop": (family,)})).oof
        for family in families[: 1 if quick else 6]
    ]
    changes = [
        gain_over_champion(settings, joined(tables[0], other)).sd_patients for other in recipes
    ]
    return {
        "fitted_pauc_mean": float(np.mean([_pauc(table) for table in tables])),
        "fitted_pauc_sd_over_seeds": float(np.std([_pauc(table) for table in tables], ddof=1)),
        "fitted_paired_sd_recipe": [round(sd, 5) for sd in changes],
        "fitted_pairs": len(pairs),
        "fitted_promoted": sum(_gain(settings, pair, 1).passed for pair in pairs),
        "fitted_promoted_before": sum(_before(settings, pair) for pair in pairs),
    }


def _simulated(settings: Gate, quick: bool) -> dict[str, Any]:
    pairs = 10 if quick else 200
    settings = settings.model_copy(update={"replicates": 100 if quick else 200})
    rng = np.random.default_rng(20_260)
    scales = {gain: _scale_of(gain) for gain in GAINS}
    curves: dict[str, dict[str, float]] = {f"attempt_{attempt}": {} for attempt in ATTEMPTS}
    before: dict[float, list[bool]] = {}
    spread: list[float] = []
    for gain, scale in scales.items():
        gains = []
        for _ in range(pairs):
            table = _draw(rng, scale)
            gains.append(gain_over_champion(settings, table))
            if gain in (0.0, 0.004):
                before.setdefault(gain, []).append(_before(settings, table))
        spread += [item.sd for item in gains]
        for attempt in ATTEMPTS:
            chance = chance_of(attempt, settings.false_promotions)
            passed = np.mean([item.low(chance) > settings.min_gain for item in gains])
            curves[f"attempt_{attempt}"][f"{gain:.3f}"] = float(passed)
    first = curves["attempt_1"]
    return {
        "pairs_each": pairs,
        "simulated_pauc": float(np.mean([_pauc(_draw(rng, 1.0)) for _ in range(5)])),
        "simulated_sd_mean": float(np.mean(spread)),
        "power": curves,
        "power_before": {f"{gain:.3f}": float(np.mean(passed)) for gain, passed in before.items()},
        "promoted_of_200_without_gain": round(first["0.000"] * 200),
        "power_at_004": first["0.004"],
        "power_at_006": first["0.006"],
    }


def _draw(
    rng: np.random.Generator, scale: float, positives: int = 393, benign: int = 12_000
) -> pd.DataFrame:
    """Out-of-fold rows of two models; the challenger's signal is `scale` times the champion's."""
    target = np.r_[np.ones(positives, dtype=int), np.zeros(benign, dtype=int)]
    count = len(target)
    # Patients differ: part of the score is shared, and some patients have many malignant lesions.
    patient = np.where(target == 1, rng.integers(0, 259, count), rng.integers(0, 1042, count))
    noise = rng.normal(size=count) + 0.3 * rng.normal(size=1042)[patient]
    signal = target * (SIGNAL + SIGNAL_SD * rng.normal(size=count))
    columns: dict[str, np.ndarray] = {}
    for suffix, times in (("", scale), ("_champion", 1.0)):
        recipe = times * signal + noise + RECIPE * rng.normal(size=count)
        seeds = recipe + SEED * rng.normal(size=(SEEDS, count))
        columns |= {f"seed_{item}{suffix}": values for item, values in enumerate(seeds)}
        columns[f"score{suffix}"] = seeds.mean(axis=0)
    return pd.DataFrame({TARGET: target, PATIENT: patient} | columns)


def _scale_of(gain: float) -> float:
    """Scale of the challenger's signal for a gain of `gain` in pAUC on 400,000 lesions, half of
    them malignant; by bisection.
    """
    if gain == 0:
        return 1.0
    low, high = 1.0, 1.6
    for _ in range(12):
        middle = (low + high) / 2
        table = _draw(np.random.default_rng(5), middle, 200_000, 200_000)
        gained = pauc(table[TARGET], table["score"]) - pauc(table[TARGET], table["score_champion"])
        low, high = (middle, high) if gained < gain else (low, middle)
    return (low + high) / 2


def _before(settings: Gate, rows: pd.DataFrame) -> bool:
    gain = paired_difference(
        rows[TARGET],
        rows["score"],
        rows["score_champion"],
        rows[PATIENT],
        settings.replicates,
        settings.seed,
    )
    return gain.value >= 0 and gain.low >= -0.005


def _pauc(rows: pd.DataFrame) -> float:
    return pauc(rows[TARGET], rows["score"])


if __name__ == "__main__":
    sys.exit(main())
