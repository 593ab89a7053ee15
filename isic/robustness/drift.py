"""Distribution shift between two sets of lesions: by column (PSI, KS) and by a classifier that
separates them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from isic.core.metric import auc
from isic.core.schema import CATEGORICAL, NUMERIC, PATIENT

#: Minimum rows and patients for comparing distributions.
_FEWEST_ROWS, _FEWEST_PATIENTS = 100, 8
#: Rows per side given to the classifier; more do not change its AUC.
_MOST_ROWS = 10_000
_BINS = 10


def drift(reference: pd.DataFrame, other: pd.DataFrame) -> list[dict[str, Any]]:
    """Per column: population stability index and, for numbers, the Kolmogorov-Smirnov distance;
    largest PSI first.

    A PSI below 0.1 is usually called stable, above 0.25 a large shift. `shift` is the difference of
    the means in standard deviations of the reference.
    """
    records = [_numeric(name, reference[name], other[name]) for name in NUMERIC]
    records += [_category(name, reference[name], other[name]) for name in CATEGORICAL]
    return sorted(records, key=lambda record: -record["psi"])


def _numeric(name: str, reference: pd.Series, other: pd.Series) -> dict[str, Any]:
    a, b = reference.dropna().to_numpy(float), other.dropna().to_numpy(float)
    edges = (
        np.unique(np.quantile(a, np.linspace(0, 1, _BINS + 1)[1:-1])) if len(a) else np.array([])
    )
    counts = [
        np.bincount(np.searchsorted(edges, values), minlength=len(edges) + 1) for values in (a, b)
    ]
    # Missing values are a bin of their own, so a column that is missing has a large PSI.
    shares = [
        np.append(count, column.isna().sum())
        for count, column in zip(counts, (reference, other), strict=True)
    ]
    # Imported late, as scikit-learn below.
    from scipy.stats import ks_2samp

    spread = float(a.std()) if len(a) else 0.0
    return {
        "column": name,
        "psi": psi(shares[0], shares[1]),
        "ks": float(ks_2samp(a, b).statistic) if len(a) and len(b) else None,
        "shift": float((b.mean() - a.mean()) / spread) if spread and len(b) else None,
    }


def _category(name: str, reference: pd.Series, other: pd.Series) -> dict[str, Any]:
    a, b = (column.fillna("missing").value_counts() for column in (reference, other))
    levels = a.index.union(b.index)
    counts = [values.reindex(levels, fill_value=0).to_numpy() for values in (a, b)]
    return {"column": name, "psi": psi(counts[0], counts[1]), "ks": None, "shift": None}


def psi(a: np.ndarray, b: np.ndarray) -> float:
    """Population stability index of two vectors of counts over the same bins; half a count smooths
    empty bins.
    """
    p, q = ((counts + 0.5) / (counts + 0.5).sum() for counts in (a.astype(float), b.astype(float)))
    return float(np.sum((p - q) * np.log(p / q)))


def too_few(frame: pd.DataFrame) -> str:
    """Why `frame` cannot be compared, or "" when it can."""
    patients = frame[PATIENT].nunique()
    if len(frame) < _FEWEST_ROWS or patients < _FEWEST_PATIENTS:
        return (
            f"too few to compare ({len(frame)} lesions of {patients} patients; {_FEWEST_ROWS} of"
            f" {_FEWEST_PATIENTS} needed)"
        )
    return ""


def adversarial(a: pd.DataFrame, b: pd.DataFrame, columns: list[str], seed: int = 0) -> float:
    """AUC of a classifier of rows of `a` against rows of `b`, on patients not trained on; 0.5: no
    shift.

    Gradient boosting on `columns`, two-fold over patients.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.model_selection import StratifiedGroupKFold

    both = pd.concat([_sample(a, seed), _sample(b, seed)], ignore_index=True)
    label = np.repeat([0, 1], [min(len(a), _MOST_ROWS), min(len(b), _MOST_ROWS)])
    table = _encode(both[columns])
    score = np.zeros(len(both))
    for train, held in StratifiedGroupKFold(2, shuffle=True, random_state=seed).split(
        table, label, both[PATIENT]
    ):
        model = HistGradientBoostingClassifier(
            max_iter=40, max_leaf_nodes=15, early_stopping=False, random_state=seed
        )
        score[held] = model.fit(table[train], label[train]).predict_proba(table[held])[:, 1]
    return auc(label, score)


def _sample(frame: pd.DataFrame, seed: int) -> pd.DataFrame:
    return frame if len(frame) <= _MOST_ROWS else frame.sample(_MOST_ROWS, random_state=seed)


def _encode(frame: pd.DataFrame) -> np.ndarray:
    """Numbers as they are, texts by the rank of their frequency, as float64."""
    coded = {
        name: column if name in NUMERIC else column.map(column.value_counts().rank(method="first"))
        for name, column in frame.items()
    }
    return pd.DataFrame(coded).to_numpy(np.float64)
