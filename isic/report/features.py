"""What each feature family gains: added to a base, and left out of the whole, on the same folds, seeds and patients.

Which learner judges is not this module's business: it is handed a function from family names to out-of-fold scores, and
pays one call for every set. Differences under about 0.005 pAUC are noise on the official data, hence the intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
from numpy.typing import ArrayLike

from isic.core.errors import InputError
from isic.core.metric import Interval, auc, paired_difference, pauc_interval
from isic.core.schema import PATIENT, TARGET

#: Out-of-fold scores (n,), aligned with the folds, of a model that knows these families only.
Scorer = Callable[[Sequence[str]], ArrayLike]


def family_report(
    score: Scorer, folds: pd.DataFrame, families: Sequence[str], base: Sequence[str], replicates: int, seed: int
) -> dict[str, Any]:
    """pAUC of `base` and of all `families`; per family, what adding it to the one and leaving it out of the other does.

    folds: patient_id and target in the rows' order. Returns JSON-able values: {"base", "all": {families, pauc, low,
    high, auc}, "families": [{family, added, added_low, added_high, left_out, left_out_low, left_out_high}]}; `added`
    and `left_out` are gains of pAUC (a negative `left_out` says the family is missed), None where the family is in the
    base or is all there is. Raises InputError when `base` is not part of `families`.
    """
    strange = [name for name in base if name not in families]
    if strange or not base:
        raise InputError(f"base families {strange or list(base)} must be some of features.families: change one of them")
    known: dict[frozenset[str], ArrayLike] = {}

    def scored(names: Sequence[str]) -> ArrayLike:
        if frozenset(names) not in known:
            known[frozenset(names)] = score(tuple(names))
        return known[frozenset(names)]

    def gain(names: Sequence[str], against: Sequence[str]) -> Interval | None:
        if not names or set(names) == set(against):
            return None
        target, patient = folds[TARGET], folds[PATIENT]
        return paired_difference(target, scored(names), scored(against), patient, replicates, seed)

    rows = []
    for family in families:
        added = gain([name for name in families if name in base or name == family], base)
        left_out = gain([name for name in families if name != family], families)
        rows.append({"family": family, **_flat("added", added), **_flat("left_out", left_out)})
    return {
        "base": _level(base, scored(base), folds, replicates, seed),
        "all": _level(families, scored(families), folds, replicates, seed),
        "families": rows,
    }


def family_plot(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Points of the report for plots/features.json: one per family and way, with its interval."""
    return [
        {"family": row["family"], "way": way, "gain": row[way], "low": row[f"{way}_low"], "high": row[f"{way}_high"]}
        for row in report["families"]
        for way in ("added", "left_out")
        if row[way] is not None
    ]


def _level(
    families: Sequence[str], score: ArrayLike, folds: pd.DataFrame, replicates: int, seed: int
) -> dict[str, Any]:
    value, low, high = pauc_interval(folds[TARGET], score, folds[PATIENT], replicates, seed)
    return {
        "families": list(families),
        "pauc": value,
        "low": low,
        "high": high,
        "auc": auc(folds[TARGET], score),
    }


def _flat(name: str, gain: Interval | None) -> dict[str, float | None]:
    value, low, high = gain or (None, None, None)
    return {name: value, f"{name}_low": low, f"{name}_high": high}
