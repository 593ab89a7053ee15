"""Whether scores hold for patients with few lesions.

`python benchmarks/any_patient.py [--quick] [--only SEED]`. One part a seed: a stacker without
images is trained on generated rows of the official size (401,059 lesions, 393 malignant) by the
stage's own settings, and scores each lesion out of fold, first among all lesions of its patient,
then among groups of 1, 2 to 3, 4 to 9 and 10 to 30 of them, as if only these had been photographed
(groups with a malignant lesion, and a random part of the others). Three ways:
- `raw`: the columns of the table alone, which no other lesion changes.
- `whole`: default features, members trained on whole patients (`stack.thinned: false`).
- `thinned`: the default: besides these, members trained on random parts of patients and members
  that read only what no other lesion changes, weighted by the number of the patient's lesions.

Targets over the seeds: in every class `thinned` is at most .003 below `raw`, and keeps at least
90 % of the gain of `whole` over `raw` on whole patients.
"""

from __future__ import annotations

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
from isic.core.metric import pauc
from isic.core.params import load_params
from isic.core.schema import ID, PATIENT, TARGET
from isic.data.sample import write_sample
from isic.data.tables import read_metadata
from isic.stack.fit import fit_stack
from isic.tabular import build_features
from isic.tabular.thinning import thin_patients

TARGETS = {"worst_against_raw": -0.003, "share_of_gain_kept": 0.9}
#: Populations of no other benchmark, test or demo.
SEEDS = (511, 512, 513)
CLASSES = {"1": (1, 1), "2 to 3": (2, 3), "4 to 9": (4, 9), "10 to 30": (10, 30)}
#: Lesions of a class, beside the groups that hold a malignant one.
DRAWN = 60_000


def main() -> int:
    names = tuple(f"seed_{seed}" for seed in SEEDS)
    options = harness.arguments(__doc__.splitlines()[0], names)
    parts = {
        name: partial(_population, name, seed, options.quick)
        for name, seed in zip(names[: 1 if options.quick else None], SEEDS, strict=False)
    }

    def measure(name: str) -> dict[str, Any]:
        found = parts[name]()
        kept = {
            key: value
            for key, value in (harness.kept("any_patient", options.quick) | found).items()
            if key.startswith("seed_")
        }
        return found | _pooled(kept)

    measured = {name: partial(measure, name) for name in parts}
    return harness.run_parts("any_patient", measured, TARGETS, _judge, options.quick, options.only)


def _pooled(populations: Mapping[str, Any]) -> dict[str, Any]:
    """Means over the seeds: difference to raw columns by class, and the share of the gain kept."""
    ways = {
        way: pd.DataFrame([found[way] for found in populations.values()]).mean()
        for way in ("raw", "whole", "thinned")
    }
    against = ways["thinned"] - ways["raw"]
    gain = ways["whole"]["all"] - ways["raw"]["all"]
    return {
        "seeds": len(populations),
        "against_raw": against.round(5).to_dict(),
        "whole_against_raw": (ways["whole"] - ways["raw"]).round(5).to_dict(),
        "worst_against_raw": float(against.min()),
        "share_of_gain_kept": float(against["all"] / gain),
    }


def _judge(measured: Mapping[str, Any]) -> dict[str, bool | None]:
    return {
        name: None if measured.get(name) is None else measured[name] >= target
        for name, target in TARGETS.items()
    }


def _population(name: str, seed: int, quick: bool) -> dict[str, Any]:
    params = load_params(harness.ROOT / "params.yaml")
    lesions, positives = (6_000, 60) if quick else (401_059, 393)
    with tempfile.TemporaryDirectory() as folder:
        patients = max(10, lesions // 385)
        write_sample(Path(folder), patients, lesions, positives, seed=seed, images=False)
        rows = read_metadata(Path(folder) / "train-metadata.csv", train=True)
    folds = make_folds(rows, len(params.folds), seed=0)
    fold = folds.set_index(ID).loc[rows[ID], "fold"].to_numpy()
    classes = _classes(rows, np.random.default_rng([seed, 1]))
    families = list(params.features.families)
    stack = params.stack
    if quick:
        stack = stack.model_copy(update={"rounds": 20, "seeds": 1})

    def score(chosen: list[str], thinned: bool) -> dict[str, float]:
        part = build_features(thin_patients(rows), chosen) if thinned else None
        fitted = fit_stack(build_features(rows, chosen), {}, folds, stack, thinned=part)
        found = {"all": fitted.metrics["pauc"]}
        del part
        for size, group in classes.items():
            features = build_features(group, chosen)
            scores = np.empty(len(group))
            mine = fold[group.index]
            for held_out in fitted.folds:
                index = np.flatnonzero(mine == held_out)
                scores[index] = fitted.score(
                    features.iloc[index], {}, held_out, group[PATIENT].iloc[index]
                )
            found[size] = pauc(group[TARGET], scores)
        return found

    return {
        name: {
            "raw": score(["raw"], False),
            "whole": score(families, False),
            "thinned": score(families, True),
        }
    }


def _classes(rows: pd.DataFrame, rng: np.random.Generator) -> dict[str, pd.DataFrame]:
    """By class, the rows (index: position in `rows`) with a patient of its own for every group."""
    found = {}
    share = min(1.0, DRAWN / len(rows))
    for name, (low, high) in CLASSES.items():
        group = np.empty(len(rows), dtype=np.int64)
        number = 0
        for index in rows.groupby(PATIENT).indices.values():
            dealt = rng.permutation(index)
            while len(dealt):
                size = int(rng.integers(low, high + 1))
                group[dealt[:size]], dealt = number, dealt[size:]
                number += 1
        malignant = np.zeros(number, dtype=bool)
        malignant[group[rows[TARGET].to_numpy() == 1]] = True
        kept = (malignant | (rng.random(number) < share))[group]
        labels = pd.array([f"group {index}" for index in group[kept]], dtype="str")
        found[name] = rows[kept].assign(**{PATIENT: labels})
    return found


if __name__ == "__main__":
    sys.exit(main())
