"""The competition's metrics, exactly, with intervals over patients. The only implementation of
pAUC.

pAUC is the area between the ROC curve and sensitivity 0.8, from 0 to 0.2: the integral of
specificity over the worst ranked fifth of the malignant lesions. With u_1 < u_2 < … the distinct
scores of malignant lesions, the curve (share of malignant scored up to t, share of benign scored up
to t) rises from (C_{k-1}, below u_k) to (C_k, up to u_k), so only benign counts at these u_k
matter. Sums over patients of such counts give every bootstrap replicate as one matrix product
instead of one sort.

Sources: ISIC-Research/Challenge-2024-Metrics, with the competition's setting (sensitivity >= 0.8,
no weights) and its sign (-score, where |score - 1| would fold scores above 1 and collapse tiny
ones).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from isic.core.errors import InputError

MIN_SENSITIVITY = 0.8
#: Share of malignant lesions that decides pAUC; 0.19999999999999996 in floating point, as in the
#: official code.
_MAX_MISSED = 1 - MIN_SENSITIVITY
#: Highest scores of each patient that count.
TOP = 15
#: Replicates per matrix product: bounds memory at 64 x (2 x malignant + 1) numbers.
_BLOCK = 64

Floats = NDArray[np.float64]


class Interval(NamedTuple):
    """A value and its central 95 % bootstrap interval over patients."""

    value: float
    low: float
    high: float


class Top15(NamedTuple):
    """Secondary metric: official sort key, its tie-break, and the sensitivity over all patients
    pooled.
    """

    sensitivity: float
    tie_break: float
    pooled: float


def pauc(target: ArrayLike, score: ArrayLike) -> float:
    """Partial AUC above 80 % sensitivity, 0 to 0.2 (0.02 for random scores of many lesions).

    `target` is 0 or 1, `score` any finite number of which higher means more malignant; both (n,).
    Raises InputError on other labels, a single class, NaN, infinity or unequal lengths.
    """
    labels, scores = _checked(target, score)
    counts = _Counts.of(labels, scores, np.zeros(len(labels), dtype=np.int64), 1)
    return float(counts.pauc(np.ones((1, 1)))[0])


def auc(target: ArrayLike, score: ArrayLike) -> float:
    """Area under the whole ROC curve, ties counted half; same arguments and errors as `pauc`."""
    labels, scores = _checked(target, score)
    benign, malignant = np.sort(scores[labels == 0]), scores[labels == 1]
    # Not with scipy.stats: importing it for the ranks takes half a second in every process.
    won = (
        np.searchsorted(benign, malignant, "left").sum()
        + np.searchsorted(benign, malignant, "right").sum()
    )
    return float(won / 2 / (len(benign) * len(malignant)))


def pauc_interval(
    target: ArrayLike, score: ArrayLike, patient: ArrayLike, replicates: int = 1000, seed: int = 0
) -> Interval:
    """pAUC with its 95 % percentile interval over `replicates` resamples of the patients, `patient`
    (n,) any labels.
    """
    spread = pauc_replicates(target, [score], patient, replicates, seed)[0]
    return _interval(pauc(target, score), spread)


def paired_difference(
    target: ArrayLike,
    a: ArrayLike,
    b: ArrayLike,
    patient: ArrayLike,
    replicates: int = 1000,
    seed: int = 0,
) -> Interval:
    """pAUC of scores `a` minus pAUC of scores `b` on the same rows and the same resamples of
    patients.
    """
    spread_a, spread_b = pauc_replicates(target, [a, b], patient, replicates, seed)
    return _interval(pauc(target, a) - pauc(target, b), spread_a - spread_b)


def pauc_replicates(
    target: ArrayLike, scores: list[Any], patient: ArrayLike, replicates: int = 1000, seed: int = 0
) -> Floats:
    """pAUC of each of `scores` under each resample of the patients, shape (len(scores),
    replicates).

    All scores use the same resamples. Results do not depend on the order of rows.
    """
    labels = _checked(target, scores[0])[0]
    codes, patients = _patient_codes(patient, len(labels))
    counts = [_Counts.of(labels, _checked(target, score)[1], codes, patients) for score in scores]
    blocks = patient_weights(labels, codes, replicates, seed)
    return np.concatenate(
        [np.stack([table.pauc(block) for table in counts]) for block in blocks], axis=1
    )


def patient_weights(
    target: ArrayLike, codes: ArrayLike, replicates: int, seed: int
) -> Iterator[Floats]:
    """How often each patient is drawn, in blocks (<= 64, patients); `codes` (n,) number the
    patients from 0.

    A resample without a malignant or without a benign lesion has no pAUC: another is drawn.
    """
    labels, patient = np.asarray(target), np.asarray(codes)
    patients = int(patient.max()) + 1
    has = [
        np.bincount(patient, weights=labels == label, minlength=patients) > 0 for label in (0, 1)
    ]
    rng = np.random.default_rng(seed)
    missing = replicates
    while missing > 0:
        drawn = rng.multinomial(patients, np.full(patients, 1 / patients), size=_BLOCK).astype(
            np.float64
        )
        usable = drawn[(drawn[:, has[0]].any(axis=1)) & (drawn[:, has[1]].any(axis=1))][:missing]
        missing -= len(usable)
        if len(usable):
            yield usable


def top15(patient: ArrayLike, target: ArrayLike, score: ArrayLike) -> Top15:
    """Retrieval of malignant lesions among each patient's 15 highest scores; ties are cut in row
    order.

    Patients without a malignant lesion do not count. Raises InputError like `pauc`, except that
    benign lesions may be absent.
    """
    labels, scores = _checked(target, score, both=False)
    codes, patients = _patient_codes(patient, len(labels))
    order = np.lexsort((np.arange(len(labels)), -scores, codes))
    sizes = np.bincount(codes, minlength=patients)
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    chosen = order[rank < TOP]
    retrieved = np.bincount(codes[chosen], weights=labels[chosen], minlength=patients)
    credit = np.bincount(
        codes[chosen],
        weights=labels[chosen] * _dense_ranks(codes[chosen], scores[chosen]) / TOP,
        minlength=patients,
    )
    total = np.bincount(codes, weights=labels, minlength=patients)
    affected = total > 0
    return Top15(
        sensitivity=float((retrieved[affected] / total[affected]).mean()),
        tie_break=float((credit[affected] / total[affected]).mean()),
        pooled=float(retrieved.sum() / total.sum()),
    )


def top15_sensitivity(patient: ArrayLike, target: ArrayLike, score: ArrayLike) -> float:
    """The official sort key: mean over patients of the share of their malignant lesions in their 15
    highest scores.
    """
    return top15(patient, target, score).sensitivity


def _dense_ranks(codes: NDArray[np.int64], scores: Floats) -> Floats:
    """Ascending dense rank within each patient, from 1; rows come grouped by patient, scores
    descending.
    """
    new_patient = np.diff(codes[::-1], prepend=-1) != 0
    step = (np.diff(scores[::-1], prepend=np.nan) != 0).astype(np.int64)
    risen = np.cumsum(step)
    start = np.maximum.accumulate(np.where(new_patient, np.arange(len(codes)), 0))
    return (risen - risen[start] + 1)[::-1].astype(np.float64)


@dataclass(frozen=True)
class _Counts:
    """Counts by patient, from which the pAUC of any weights of the patients is computed.

    positives: (distinct malignant scores, patients); negatives: (2 x distinct malignant scores + 1,
    patients), of which row 2k counts benign scores between u_{k-1} and u_k and row 2k + 1 those
    equal to u_k.
    """

    positives: sparse.csr_matrix
    negatives: sparse.csr_matrix

    @classmethod
    def of(
        cls, labels: NDArray[np.int64], scores: Floats, codes: NDArray[np.int64], patients: int
    ) -> _Counts:
        malignant = labels == 1
        distinct, group = np.unique(scores[malignant], return_inverse=True)
        left = np.searchsorted(distinct, scores[~malignant], "left")
        right = np.searchsorted(distinct, scores[~malignant], "right")
        return cls(
            _table(group, codes[malignant], len(distinct), patients),
            _table(left + right, codes[~malignant], 2 * len(distinct) + 1, patients),
        )

    def pauc(self, weights: Floats) -> Floats:
        """pAUC of each row of `weights` (replicates, patients)."""
        malignant = np.asarray(self.positives @ weights.T)
        benign = np.cumsum(np.asarray(self.negatives @ weights.T), axis=0)
        width = malignant / malignant.sum(axis=0)
        left = np.cumsum(malignant, axis=0) / malignant.sum(axis=0) - width
        used = np.clip(_MAX_MISSED - left, 0, width)
        below, up_to = benign[0:-1:2] / benign[-1], benign[1::2] / benign[-1]
        # Ties make the curve rise along the segment; its part up to the boundary ends at the
        # interpolated point.
        part = np.divide(used, width, out=np.zeros_like(used), where=width > 0)
        area: Floats = (used * (below + (up_to - below) * part / 2)).sum(axis=0)
        return area


def _table(
    rows: NDArray[np.int64], codes: NDArray[np.int64], height: int, patients: int
) -> sparse.csr_matrix:
    return sparse.coo_matrix((np.ones(len(rows)), (rows, codes)), shape=(height, patients)).tocsr()


def _interval(value: float, spread: Floats) -> Interval:
    low, high = np.quantile(spread, [0.025, 0.975])
    return Interval(value, float(low), float(high))


def _patient_codes(patient: ArrayLike, length: int) -> tuple[NDArray[np.int64], int]:
    names = np.asarray(patient)
    if names.shape != (length,):
        raise InputError(f"{len(names)} patients for {length} scores: give one per row")
    distinct, codes = np.unique(names.astype(str), return_inverse=True)
    return codes.astype(np.int64), len(distinct)


def _checked(
    target: ArrayLike, score: ArrayLike, both: bool = True
) -> tuple[NDArray[np.int64], Floats]:
    labels, scores = np.asarray(target), np.asarray(score)
    if labels.ndim != 1 or labels.shape != scores.shape:
        raise InputError(
            f"targets have shape {labels.shape}, scores {scores.shape}: give two equally long"
            " columns"
        )
    if not np.isin(labels, (0, 1)).all():
        raise InputError(
            "targets hold values other than 0 and 1: a metric needs the true label of every row"
        )
    try:
        scores = scores.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InputError("scores are not numbers: give one finite number per row") from error
    broken = int((~np.isfinite(scores)).sum())
    if broken:
        raise InputError(f"{broken} scores are NaN or infinite: give one finite number per row")
    if not len(labels):
        raise InputError("no rows to score: the metric needs both classes")
    if not (labels == 1).any() or (both and not (labels == 0).any()):
        only = "malignant" if (labels == 1).any() else "benign"
        raise InputError(f"all {len(labels)} rows are {only}: the metric needs both classes")
    return labels.astype(np.int64), scores
