"""Challenger and champion on parts of the population, so that a gain in all does not hide a loss in some.

The groups are those of the report. With few malignant lesions a difference is chance, so such slices are shown and not
judged.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pandas as pd

from isic.core.metric import pauc
from isic.core.schema import TARGET
from isic.evaluate.slices import slice_levels


class Slice(NamedTuple):
    """pAUC of both on one group, None where it has one class only; `judged` if it has malignant lesions enough."""

    group: str
    level: str
    n: int
    positives: int
    challenger: float | None
    champion: float | None
    judged: bool

    @property
    def gain(self) -> float | None:
        """Challenger minus champion."""
        return None if self.challenger is None or self.champion is None else self.challenger - self.champion


def compare_slices(rows: pd.DataFrame, min_positives: int) -> Iterator[Slice]:
    """Every level of every group, largest first. `rows`: metadata with target, score and score_champion."""
    for group, of_each in slice_levels(rows).items():
        for level in of_each.value_counts().index:
            yield _slice(group, str(level), rows[of_each == level], min_positives)


def _slice(group: str, level: str, part: pd.DataFrame, min_positives: int) -> Slice:
    positives = int(part[TARGET].sum())
    both = 0 < positives < len(part)
    new, old = (pauc(part[TARGET], part[name]) if both else None for name in ("score", "score_champion"))
    return Slice(group, level, len(part), positives, new, old, judged=both and positives >= min_positives)
