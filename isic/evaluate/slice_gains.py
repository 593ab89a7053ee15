"""pAUC of challenger and champion by slice: an overall gain can hide a loss on some patients.

The slices are those of the report. With few malignant lesions a difference is chance: such slices
are listed but not judged.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pandas as pd

from isic.core.metric import pauc
from isic.core.schema import TARGET
from isic.evaluate.slices import slice_levels


class SliceGain(NamedTuple):
    """pAUC of both models on one slice, None where it has one class only; `judged` with enough
    malignant lesions.
    """

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
        return (
            None
            if self.challenger is None or self.champion is None
            else self.challenger - self.champion
        )


def compare_slices(rows: pd.DataFrame, min_positives: int) -> Iterator[SliceGain]:
    """Every level of every group, largest first. `rows`: metadata with target, score and
    score_champion.
    """
    for group, levels in slice_levels(rows).items():
        for level in levels.value_counts().index:
            yield _slice_gain(group, str(level), rows[levels == level], min_positives)


def _slice_gain(group: str, level: str, rows: pd.DataFrame, min_positives: int) -> SliceGain:
    positives = int(rows[TARGET].sum())
    both = 0 < positives < len(rows)
    new, old = (
        pauc(rows[TARGET], rows[name]) if both else None for name in ("score", "score_champion")
    )
    return SliceGain(
        group, level, len(rows), positives, new, old, judged=both and positives >= min_positives
    )
