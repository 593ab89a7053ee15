"""Paired comparison of two sets of out-of-fold scores."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from isic.core.errors import InputError
from isic.core.io import read_parquet
from isic.core.metric import auc, paired_difference, pauc, pauc_interval, top15_sensitivity
from isic.core.schema import ID, PATIENT, TARGET
from isic.evaluate.results import OOF_COLUMNS, check_oof

#: Files of out-of-fold scores in a bundle, a checkout or the folder of the file itself.
_OOF_FILES = ("oof.parquet", "data/oof/stack.parquet", "stack.parquet")


@dataclass(frozen=True)
class Side:
    """Metrics of one set of scores on the shared rows; low and high: 95 % interval of pAUC over
    patients.
    """

    name: str
    pauc: float
    low: float
    high: float
    auc: float
    top15_sensitivity: float


@dataclass(frozen=True)
class Comparison:
    """`difference` is pAUC of b minus pAUC of a, with its paired 95 % interval over patients."""

    a: Side
    b: Side
    difference: float
    low: float
    high: float
    rows: int
    positives: int
    only_a: int
    only_b: int
    folds: tuple[dict[str, Any], ...]

    @property
    def verdict(self) -> str:
        """Conclusion in one sentence."""
        if self.low > 0:
            return f"{self.b.name} is better: the whole interval lies above zero."
        if self.high < 0:
            return f"{self.a.name} is better: the whole interval lies below zero."
        return "no evidence of a difference: the interval spans zero."

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "folds": list(self.folds), "verdict": self.verdict}


def read_oof(path: Path) -> pd.DataFrame:
    """Out-of-fold scores of a parquet file, a bundle folder or a checkout.

    Raises InputError when there are none.
    """
    path = Path(path)
    if path.is_dir():
        files = [path / name for name in _OOF_FILES if (path / name).is_file()]
        if not files:
            raise InputError(
                f"{path} holds no out-of-fold scores ({', '.join(_OOF_FILES)}): name a bundle or a"
                " checkout"
            )
        path = files[0]
    return check_oof(read_parquet(path), str(path))


def compare_oof(
    a: pd.DataFrame,
    b: pd.DataFrame,
    names: tuple[str, str] = ("A", "B"),
    replicates: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Compare two frames of OOF_COLUMNS on the lesions that are in both.

    Raises InputError when they share no lesion or differ in a lesion's label or patient: their data
    differ.
    """
    both = a[list(OOF_COLUMNS)].merge(b[list(OOF_COLUMNS)], on=ID, suffixes=("_a", "_b"))
    if both.empty:
        raise InputError(
            f"{names[0]} and {names[1]} share no isic_id: they were made from different data"
        )

    for column in (TARGET, PATIENT):
        differ = both[f"{column}_a"] != both[f"{column}_b"]
        if differ.any():
            raise InputError(
                f"{names[0]} and {names[1]} disagree on the {column} of"
                f" {both.loc[differ, ID].iloc[0]}: they were made from different data"
            )

    target, patient = both[f"{TARGET}_a"].to_numpy(), both[f"{PATIENT}_a"].to_numpy()
    scores = [both[f"score_{side}"].to_numpy(np.float64) for side in ("a", "b")]

    gain = paired_difference(target, scores[1], scores[0], patient, replicates, seed)
    sides = [
        _side(name, target, score, patient, replicates, seed)
        for name, score in zip(names, scores, strict=True)
    ]

    return Comparison(
        a=sides[0],
        b=sides[1],
        difference=gain.value,
        low=gain.low,
        high=gain.high,
        rows=len(both),
        positives=int(target.sum()),
        only_a=len(a) - len(both),
        only_b=len(b) - len(both),
        folds=_folds(both),
    )


def _side(
    name: str,
    target: np.ndarray,
    score: np.ndarray,
    patient: np.ndarray,
    replicates: int,
    seed: int,
) -> Side:
    value, low, high = pauc_interval(target, score, patient, replicates, seed)
    return Side(
        name, value, low, high, auc(target, score), top15_sensitivity(patient, target, score)
    )


def _folds(both: pd.DataFrame) -> tuple[dict[str, Any], ...]:
    """pAUC of both per fold; empty when the folds differ."""
    if (both["fold_a"] != both["fold_b"]).any():
        return ()

    records = []
    for fold, part in both.groupby("fold_a"):
        target = part[f"{TARGET}_a"]
        if 0 < target.sum() < len(part):
            values = {side: pauc(target, part[f"score_{side}"]) for side in ("a", "b")}
            records.append(
                {"fold": int(str(fold)), **values, "difference": values["b"] - values["a"]}
            )
    return tuple(records)


def comparison_table(comparison: Comparison) -> str:
    """The comparison as plain text for a terminal."""
    a, b = comparison.a, comparison.b
    width = max(len(a.name), len(b.name), 12)

    lines = [
        f"{comparison.rows:,} lesions in both, {comparison.positives} malignant"
        + _unshared(comparison),
        "",
        f"{'':<20}{a.name:>{width + 2}}{b.name:>{width + 2}}",
        f"{'pAUC':<20}{a.pauc:>{width + 2}.4f}{b.pauc:>{width + 2}.4f}",
        f"{'  low':<20}{a.low:>{width + 2}.4f}{b.low:>{width + 2}.4f}",
        f"{'  high':<20}{a.high:>{width + 2}.4f}{b.high:>{width + 2}.4f}",
        f"{'AUC':<20}{a.auc:>{width + 2}.4f}{b.auc:>{width + 2}.4f}",
        (
            f"{'top-15 sensitivity':<20}{a.top15_sensitivity:>{width + 2}.4f}{b.top15_sensitivity:>{width + 2}.4f}"
        ),
        *(
            f"{'fold ' + str(fold['fold']):<20}{fold['a']:>{width + 2}.4f}{fold['b']:>{width + 2}.4f}"
            for fold in comparison.folds
        ),
        "",
        (
            f"{b.name} − {a.name}: {comparison.difference:+.4f} "
            f"(95 % {comparison.low:+.4f} to {comparison.high:+.4f}, paired over patients)"
        ),
        comparison.verdict,
    ]
    if not comparison.folds:
        lines.insert(-2, "The folds differ: part of the difference comes from the split.")
    return "\n".join(lines)


def _unshared(comparison: Comparison) -> str:
    if not (comparison.only_a or comparison.only_b):
        return ""
    return (
        f" ({comparison.only_a:,} only in {comparison.a.name}, {comparison.only_b:,} only in"
        f" {comparison.b.name})"
    )
