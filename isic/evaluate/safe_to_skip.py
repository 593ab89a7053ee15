"""Safe to skip: how many lesions of a patient need no second look, at a stated rate of misses.

Split conformal prediction over patients (Vovk et al., Algorithmic Learning in a Random World, 2005;
risk control: Angelopoulos et al., arXiv 2208.02814). A patient's lesions depend on each other, so
the exchangeable unit is the patient with a malignant lesion, with its lowest malignant score. Of n
such patients the lesions below the k-th lowest of these scores are skipped, k = floor(rate (n + 1)):
a new patient of the same population has a malignant lesion among the skipped ones with probability
k / (n + 1), at most `rate`. Below n = 1 / rate - 1 patients nothing can be skipped.
"""

from __future__ import annotations

from math import floor

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from isic.evaluate.curves import Records
from isic.evaluate.results import RunResults

#: Stated shares of patients with a malignant lesion of whom one may be skipped.
MISS_RATES = (0.05, 0.1, 0.2)
ALL = "all"


def skip_threshold(lowest: NDArray[np.float64], rate: float) -> float:
    """Score below which lesions are skipped, from the lowest malignant score of each patient (n,);
    -inf where n is too small for `rate`.
    """
    # 0.1 * 30 is 3.0000000000000004 in floating point, and 0.05 * 20 may fall short of 1.
    index = floor(rate * (len(lowest) + 1) + 1e-9)
    return float(np.sort(lowest)[index - 1]) if index else -np.inf


def skip_records(results: RunResults) -> Records:
    """One record for each rate and hospital, and for all of them, from out-of-fold scores.

    Each fold is judged by the threshold of the patients in the other folds, so no patient sets its
    own. `threshold` is that of all patients, for a new one. `missed` of `with_malignant` patients
    have a skipped malignant lesion; `skipped` is the mean share of a patient's lesions.
    """
    rows = pd.DataFrame(
        {
            "patient": results.patient,
            "fold": results.fold,
            "hospital": results.rows["attribution"].fillna("missing").to_numpy(),
            "score": results.score,
            "malignant": results.target == 1,
        }
    )
    lowest = rows[rows["malignant"]].groupby("patient")["score"].min()
    fold_of = rows.groupby("patient")["fold"].first().loc[lowest.index].to_numpy()
    records: Records = []
    for rate in MISS_RATES:
        by_fold = {
            fold: skip_threshold(lowest.to_numpy()[fold_of != fold], rate)
            for fold in np.unique(results.fold)
        }
        skipped = rows["score"] < rows["fold"].map(by_fold)
        patients = pd.DataFrame(
            {
                "hospital": rows.groupby("patient")["hospital"].first(),
                "lesions": rows.groupby("patient").size(),
                "skipped": skipped.groupby(rows["patient"]).mean(),
                "missed": (skipped & rows["malignant"]).groupby(rows["patient"]).any(),
                "with_malignant": rows.groupby("patient")["malignant"].any(),
            }
        )
        threshold = skip_threshold(lowest.to_numpy(), rate)
        groups = [(ALL, patients), *patients.groupby("hospital")]
        records += [
            {
                "rate": rate,
                "hospital": str(name),
                "threshold": threshold if np.isfinite(threshold) else None,
                "patients": len(group),
                "lesions": int(group["lesions"].sum()),
                "skipped": float(group["skipped"].mean()),
                "with_malignant": int(group["with_malignant"].sum()),
                "missed": int(group["missed"].sum()),
            }
            for name, group in groups
        ]
    return records
