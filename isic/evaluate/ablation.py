"""Ablation of feature families: pAUC gained by adding each family to a base, removing it from the
families in use, or adding it to them, on the same folds, seeds and patients.

The learner is a function from family names to out-of-fold scores, called once per set. Each
difference has a paired interval over patients: few differ by more than chance.
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

#: Family names -> out-of-fold scores (n,), aligned with the folds, of a model of these families
#: only.
_Scorer = Callable[[Sequence[str]], ArrayLike]
#: Kinds of ablation: a family is added to the base, left out of the families in use, or put into
#: them.
WAYS = ("added", "left_out", "put_in")


def family_ablation(
    score: _Scorer,
    folds: pd.DataFrame,
    families: Sequence[str],
    used: Sequence[str],
    base: Sequence[str],
    replicates: int,
    seed: int,
    echo: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """pAUC of the `base` and of the `used` families, and the gain of each of `families` against
    both.

    folds: patient_id and target in row order. Returns JSON-able values: {lesions, malignant,
    "base", "used": {families, pauc, low, high, auc}, "families": [{family, used, added, added_low,
    added_high, left_out, …, put_in, …}]}. Gains are differences of pAUC with the 95 % interval over
    patients: `added` to the base, `left_out` of the used families (negative: the family helps),
    `put_in` with them; None without a comparison. `echo` receives a line of progress after every
    family. Raises InputError when `base` is empty, `base` is not part of `used`, or `used` not of
    `families`.
    """
    unknown = [name for name in base if name not in used] + [
        name for name in used if name not in families
    ]
    if unknown or not base:
        raise InputError(
            f"base families {unknown or list(base)} must be some of features.families: change one"
            " of them"
        )

    cache: dict[frozenset[str], ArrayLike] = {}

    def scored(names: Sequence[str]) -> ArrayLike:
        if frozenset(names) not in cache:
            cache[frozenset(names)] = score(tuple(names))
        return cache[frozenset(names)]

    def gain(names: Sequence[str], against: Sequence[str]) -> Interval | None:
        if not names or set(names) == set(against):
            return None
        target, patient = folds[TARGET], folds[PATIENT]
        return paired_difference(target, scored(names), scored(against), patient, replicates, seed)

    def gains_of(family: str) -> dict[str, Any]:
        with_it = [name for name in families if name in used or name == family]
        without_it = [name for name in families if name in used and name != family]
        gains = {
            "added": gain([name for name in families if name in base or name == family], base),
            "left_out": gain(without_it, used) if family in used else None,
            "put_in": gain(with_it, used),
        }
        row: dict[str, Any] = {"family": family, "used": family in used}
        for way, interval in gains.items():
            row |= _interval_columns(way, interval)
        return row

    start, rows = time.monotonic(), []
    for family in families:
        rows.append(gains_of(family))
        seconds = (time.monotonic() - start) / len(rows)
        left = seconds * (len(families) - len(rows)) / 60
        echo(f"{len(rows)}/{len(families)} {_describe_gains(rows[-1])} · {left:.0f} min left")

    return {
        "lesions": len(folds),
        "malignant": int(folds[TARGET].sum()),
        "base": _set_metrics(base, scored(base), folds, replicates, seed),
        "used": _set_metrics(used, scored(used), folds, replicates, seed),
        "families": rows,
    }


def _describe_gains(row: dict[str, Any]) -> str:
    """A family's gains in one line."""
    labels = {"added": "added to the base", "left_out": "left out", "put_in": "put in"}
    gains = [f"{labels[way]} {format_gain(row, way)}" for way in WAYS if row[way] is not None]
    return f"{row['family']}: {', '.join(gains) or 'the base itself'}"


def format_gain(row: dict[str, Any], way: str) -> str:
    """A family's gain in one of `WAYS` with its interval; "" without a comparison."""
    if row[way] is None:
        return ""
    return f"{row[way]:+.4f} ({row[f'{way}_low']:+.4f} to {row[f'{way}_high']:+.4f})"


def ablation_points(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Points of the report: one per family and way, with its interval."""
    return [
        {
            "family": row["family"],
            "way": way,
            "gain": row[way],
            "low": row[f"{way}_low"],
            "high": row[f"{way}_high"],
        }
        for row in report["families"]
        for way in WAYS
        if row[way] is not None
    ]


def _set_metrics(
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


def _interval_columns(name: str, gain: Interval | None) -> dict[str, float | None]:
    value, low, high = gain or (None, None, None)
    return {name: value, f"{name}_low": low, f"{name}_high": high}
