"""What the images say, as columns: logits of the fold's image models on one scale, alone and within the patient.

Every fold's image models speak their own scale, so each fold's logits are standardised (or ranked) by what that
fold's held-out rows showed, and the same numbers are used at test time for the same models. No label is read here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from isic.core.errors import InputError
from isic.stack.design import Columns, plain

Floats = NDArray[np.float64]
#: Quantiles kept to rank a new logit among a fold's held-out ones.
KNOTS = 1025


@dataclass(frozen=True)
class Scale:
    """How raw logits of one image model become comparable to those of other folds: (x - mean) / sd, or a rank."""

    mean: float
    sd: float
    knots: tuple[float, ...] = ()

    @classmethod
    def fit(cls, logits: ArrayLike, how: str) -> Scale:
        """Fit on held-out logits (n,) of one fold; `how` is "standardised" or "ranked" (0 to 1)."""
        values = np.asarray(logits, dtype=np.float64)
        knots: tuple[float, ...] = ()
        if how == "ranked":
            knots = tuple(np.quantile(values, np.linspace(0, 1, KNOTS)).tolist())
        return cls(float(values.mean()), float(values.std()), knots)

    def __call__(self, logits: ArrayLike) -> Floats:
        """Scaled logits (n,); a missing image (NaN) becomes the fold's average."""
        values = np.asarray(logits, dtype=np.float64)
        values = np.where(np.isnan(values), self.mean, values)
        if self.knots:
            return np.interp(values, np.maximum.accumulate(self.knots), np.linspace(0, 1, len(self.knots)))
        return (values - self.mean) / (self.sd + 1e-9)

    def to_json(self) -> dict[str, Any]:
        return {"mean": self.mean, "sd": self.sd, "knots": list(self.knots)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Scale:
        return cls(values["mean"], values["sd"], tuple(values["knots"]))


def image_columns(scaled: Mapping[str, Floats], patients: ArrayLike, relative: bool) -> Columns:
    """Columns from scaled logits {backbone: (n,)}: each backbone and their mean, with rank and ratio in the patient."""
    if not scaled:
        return {}
    sources = dict(scaled)
    if len(sources) > 1:
        sources["all"] = np.mean(list(scaled.values()), axis=0)
    made: Columns = {}
    group = pd.Series(np.asarray(patients).astype(str))
    for backbone, values in sources.items():
        stem = f"image_{plain(backbone)}"
        made[stem] = values.astype(np.float32)
        if relative:
            made |= _within_patient(stem, values, group)
    return made


def image_names(backbones: tuple[str, ...], relative: bool) -> tuple[str, ...]:
    """Names of `image_columns` for these backbones."""
    return tuple(image_columns({name: np.zeros(1) for name in backbones}, ["one"], relative))


def _within_patient(stem: str, values: Floats, group: pd.Series) -> Columns:
    series = pd.Series(values)
    grouped = series.groupby(group)
    count = grouped.transform("size")
    risk = pd.Series(expit(values))
    return {
        # Middle ranks: a patient's only lesion sits at one half, not at the top.
        f"{stem}_rank": ((grouped.rank() - 0.5) / count).to_numpy(dtype=np.float32),
        f"{stem}_ratio": (risk / risk.groupby(group).transform("mean")).to_numpy(dtype=np.float32),
        f"{stem}_above": (series - grouped.transform("mean")).to_numpy(dtype=np.float32),
    }


def check_logits(logits: Mapping[str, ArrayLike], backbones: tuple[str, ...], length: int) -> None:
    """Raise InputError unless `logits` holds one array of `length` for exactly these backbones."""
    if set(logits) != set(backbones):
        raise InputError(
            f"logits are of backbones {sorted(logits)}, the stacker was trained with {sorted(backbones)}: "
            "score with the image models it belongs to"
        )
    for backbone, values in logits.items():
        if np.asarray(values).shape != (length,):
            raise InputError(f"{backbone} has {np.asarray(values).shape} logits for {length} rows: give one per row")
