"""Screen for columns that leak the target: too strong alone, or strong in one fold and not in the
others.

A column made from a fold's own labels is strong in that fold and weak elsewhere; an honest one
differs between folds by sampling error only. Patients, not lesions, are what was sampled (a
patient's lesions share age and hospital), so a gap between folds is judged by an error that takes
whole patients as its units.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from isic.core.errors import InputError
from isic.core.parallel import workers
from isic.core.schema import PATIENT
from isic.stack.training_data import TrainingData

#: The strongest measurement of real lesions has AUC 0.81, the strongest single image network stays
#: below 0.97.
_TOO_GOOD = 0.97
#: Chance, over all columns and folds together, that an honest column is reported as inconsistent.
_FALSE_ALARM = 0.001
#: Smallest gap between folds that counts as a leak, at any significance: in a fold of two patients
#: their shares of the error cancel, and any gap is significant.
_GAP = 0.05
#: Benign rows used: their share of the error is far below that of a few hundred malignant ones.
_BENIGN = 50_000


@dataclass(frozen=True)
class Leak:
    """A column that leaks the target: alone, or in one fold and not in the others (`fold`)."""

    column: str
    fold: int | None
    auc: float
    reason: str


def find_leaks(
    columns: Mapping[str, NDArray[np.float32]],
    target: NDArray[np.int64],
    fold: NDArray[np.int64],
    patients: ArrayLike,
) -> list[Leak]:
    """Columns that separate malignant lesions too well, or in one fold unlike in the others, worst
    first.

    All arrays are (n,); a missing value ties below all others. Gaps are compared with the error for
    lesions clustered in patients, on as many degrees of freedom as the fold has patients with a
    malignant lesion, Bonferroni-corrected over columns and folds. Folds without both classes are
    skipped.
    """
    kept = _sample(target)
    labels, folds = target[kept], fold[kept]
    codes = np.unique(np.asarray(patients)[kept].astype(str), return_inverse=True)[1]
    groups = [group for group in np.unique(folds).tolist() if set(labels[folds == group]) == {0, 1}]
    share = _FALSE_ALARM / 2 / max(1, len(columns) * len(groups))

    def judge(item: tuple[str, NDArray[np.float32]]) -> list[Leak]:
        name, column = item
        values = np.where(np.isnan(column[kept]), -np.inf, column[kept])
        area = _area(values, labels, codes)[0]
        if max(area, 1 - area) > _TOO_GOOD:
            return [Leak(name, None, area, f"alone it reaches AUC {max(area, 1 - area):.3f}")]
        leaks = []
        for group in groups if len(groups) > 1 else []:
            mine = folds == group
            inside, error, patient_count = _area(values[mine], labels[mine], codes[mine])
            outside, other, _ = _area(values[~mine], labels[~mine], codes[~mine])
            gap, spread = abs(inside - outside), float(np.hypot(error, other)) + 1e-12
            degrees = patient_count - 1
            if degrees > 0 and gap > max(_GAP, -stdtrit(degrees, share) * spread):
                apart = f"{gap / spread:.1f} standard errors apart"
                leaks.append(
                    Leak(
                        name,
                        group,
                        inside,
                        f"AUC {inside:.3f} in fold {group}, {outside:.3f} in the others, {apart}",
                    )
                )
        return leaks

    with ThreadPoolExecutor(workers()) as pool:
        leaks = [leak for part in pool.map(judge, columns.items()) for leak in part]
    return sorted(leaks, key=lambda leak: -abs(leak.auc - 0.5))


def screen_leaks(data: TrainingData) -> list[Leak]:
    """`find_leaks` in all that the chains read, each chain's fitted columns among them.

    A fitted column that leaks the labels of its training rows is strong in those folds and weak in
    the fold that the chain scores.
    """
    judged = dict(data.columns)
    for fold, own in data.fitted_columns.items():
        judged |= {f"{name} of chain {fold}": column for name, column in own.columns.items()}
    return find_leaks(judged, data.target, data.fold, data.folds[PATIENT])


def describe_leaks(leaks: list[Leak]) -> str:
    """One line that names the worst of `leaks`."""
    more = f"; and {len(leaks) - 1} more" if len(leaks) > 1 else ""
    return (
        f"column {leaks[0].column} leaks the target ({leaks[0].reason}{more}): build it without"
        " labels"
    )


def refuse_leaks(leaks: list[Leak]) -> None:
    """Raise InputError naming the worst leak, if there is any."""
    if leaks:
        raise InputError(describe_leaks(leaks))


def _sample(target: NDArray[np.int64]) -> NDArray[np.int64]:
    """All malignant rows and at most `_BENIGN` benign ones, in order."""
    benign = np.flatnonzero(target == 0)
    if len(benign) > _BENIGN:
        benign = np.random.default_rng(0).choice(benign, _BENIGN, replace=False)
    return np.sort(np.concatenate([np.flatnonzero(target == 1), benign]))


def _area(
    values: NDArray[np.floating], labels: NDArray[np.int64], codes: NDArray[np.int64]
) -> tuple[float, float, int]:
    """AUC, its standard error over patients, and how many patients have a malignant lesion.

    The error is Obuchowski's (Biometrics 53, 1997): each lesion's share of the other class that it
    beats, summed over its patient.
    """
    malignant, benign = np.sort(values[labels == 1]), np.sort(values[labels == 0])
    above = _below(benign, values[labels == 1]) / len(benign)
    under = 1 - _below(malignant, values[labels == 0]) / len(malignant)
    area = float(above.mean())
    size = int(codes.max()) + 1
    sums = np.bincount(codes[labels == 1], (above - area) / len(malignant), size)
    sums += np.bincount(codes[labels == 0], (under - area) / len(benign), size)
    patients = len(np.unique(codes[labels == 1]))
    return area, float(np.sqrt((sums**2).sum() * patients / max(1, patients - 1))), patients


def _below(ordered: NDArray[np.floating], values: NDArray[np.floating]) -> NDArray[np.float64]:
    """How many of `ordered` lie below each of `values`, ties counted half."""
    return (
        np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
    ) / 2
