"""A small population for the stacker: features and image logits of known signal, patients with
offsets.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
import yaml

from isic.core.params import StackSettings
from tests.conftest import ROOT


class Population(NamedTuple):
    features: pd.DataFrame
    logits: dict[str, np.ndarray]
    folds: pd.DataFrame


def make(
    lesions: int = 900, positives: int = 40, patients: int = 30, seed: int = 0, signal: float = 1.0
) -> Population:
    """Three folds; the scale of the image models differs between folds, as in reality."""
    rng = np.random.default_rng(seed)
    patient = rng.integers(0, patients, lesions)
    target = np.zeros(lesions, dtype=np.int64)
    target[rng.choice(lesions, positives, replace=False)] = 1
    fold = patient % 3
    features = pd.DataFrame({"isic_id": [f"ISIC_{row:07d}" for row in range(lesions)]})
    for column in range(8):
        values = (
            rng.normal(size=lesions)
            + rng.normal(size=patients)[patient]
            + signal * target * (column < 4)
        )
        features[f"measure_{column}"] = values.astype(np.float32)
    features["site"] = pd.Series(rng.choice(["arm", "head, neck", "leg"], lesions), dtype="str")
    features.loc[::50, "site"] = None
    features.loc[::40, "measure_7"] = np.nan
    logits = {
        name: (
            ((rng.normal(size=lesions) + 1.5 * signal * target) * (1 + fold) - 3 * fold).astype(
                np.float32
            )
        )
        for name in ("vit", "convnext")
    }
    folds = pd.DataFrame(
        {
            "isic_id": features["isic_id"],
            "patient_id": [f"IP_{p:07d}" for p in patient],
            "target": target,
            "fold": fold,
        }
    )
    return Population(features, logits, folds)


def settings(**changes: object) -> StackSettings:
    """The committed stack section, made quick, with `changes` at its top level."""
    section = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["stack"]
    return StackSettings.model_validate({**section, "seeds": 2, "rounds": 40, **changes})
