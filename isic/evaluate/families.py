"""What each feature family gains, on the same folds, seeds and patients: added to a base, left out of or put into the
set in use.

Which learner judges is not this module's business: it is handed a function from family names to out-of-fold scores, and
pays one call for every set. Differences under about 0.005 pAUC are noise on the official data, hence the intervals.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
from numpy.typing import ArrayLike

from isic.core.errors import InputError
from isic.core.metric import Interval, auc, paired_difference, pauc_interval
from isic.core.schema import PATIENT, TARGET

#: Out-of-fold scores (n,), aligned with the folds, of a model that knows these families only.
Scorer = Callable[[Sequence[str]], ArrayLike]
#: What is done with a family: added to the base, left out of the set in use, put into it.
WAYS = ("added", "left_out", "put_in")


def family_report(
    score: Scorer,
    folds: pd.DataFrame,
    families: Sequence[str],
    used: Sequence[str],
    base: Sequence[str],
    replicates: int,
    seed: int,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """pAUC of `base` and of the `used` families; for each of `families`, what it does to the one and to the other.

    folds: patient_id and target in the rows' order. Returns JSON-able values: {lesions, malignant, "base", "used":
    {families, pauc, low, high, auc}, "families": [{family, used, added, added_low, added_high, left_out, …, put_in,
    …}]}, all gains of pAUC with the 95 % interval over patients: `added` to the base, `left_out` of the used (negative:
    the family is missed), `put_in` beside them; None where there is nothing to compare. `say` is told after every
    family how far it is.
    Raises InputError when `base` is not part of `used`, or a used family not of `families`.
    """
    strange = [name for name in base if name not in used] + [name for name in used if name not in families]
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

    def judged(family: str) -> dict[str, Any]:
        with_it = [name for name in families if name in used or name == family]
        without_it = [name for name in families if name in used and name != family]
        gains = {
            "added": gain([name for name in families if name in base or name == family], base),
            "left_out": gain(without_it, used) if family in used else None,
            "put_in": gain(with_it, used),
        }
        row: dict[str, Any] = {"family": family, "used": family in used}
        for way, found in gains.items():
            row |= _flat(way, found)
        return row

    start, rows = time.monotonic(), []
    for family in families:
        rows.append(judged(family))
        each = (time.monotonic() - start) / len(rows)
        left = each * (len(families) - len(rows)) / 60
        say(f"{len(rows)}/{len(families)} {in_words(rows[-1])} · {left:.0f} min left")
    return {
        "lesions": len(folds),
        "malignant": int(folds[TARGET].sum()),
        "base": _level(base, scored(base), folds, replicates, seed),
        "used": _level(used, scored(used), folds, replicates, seed),
        "families": rows,
    }


def in_words(row: dict[str, Any]) -> str:
    """A family's gains in one line."""
    words = {"added": "added to the base", "left_out": "left out", "put_in": "put in"}
    told = [f"{words[way]} {gain_in_words(row, way)}" for way in WAYS if row[way] is not None]
    return f"{row['family']}: {', '.join(told) or 'the base itself'}"


def gain_in_words(row: dict[str, Any], way: str) -> str:
    """A family's gain in one of `WAYS` with its interval; empty where there is nothing to compare."""
    if row[way] is None:
        return ""
    return f"{row[way]:+.4f} ({row[f'{way}_low']:+.4f} to {row[f'{way}_high']:+.4f})"


def family_plot(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Points of the report: one per family and way, with its interval."""
    return [
        {"family": row["family"], "way": way, "gain": row[way], "low": row[f"{way}_low"], "high": row[f"{way}_high"]}
        for row in report["families"]
        for way in WAYS
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
