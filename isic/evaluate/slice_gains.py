"""pAUC of challenger and champion by slice: an overall gain can hide a loss on some patients.

The slices are those of the report. With few malignant lesions a difference is chance: such slices
are listed but not judged.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pandas as pd

from isic.core.metric import pauc
from isic.core.schema import PATIENT, TARGET
from isic.evaluate.paired_gain import PairedGain, paired_gain
from isic.evaluate.slices import slice_levels


class SliceGain(NamedTuple):
    """pAUC of both models on one slice, None where it has one class only; `judged` with enough
    malignant lesions, then with the `paired` gain.
    """

    group: str
    level: str
    n: int
    positives: int
    challenger: float | None
    champion: float | None
    judged: bool
    paired: PairedGain | None = None

    @property
    def gain(self) -> float | None:
        """Challenger minus champion."""
        return (
            None
            if self.challenger is None or self.champion is None
            else self.challenger - self.champion
        )

    def to_json(self) -> dict[str, Any]:
        """The fields, the gain and its standard deviation over patients."""
        values = self._asdict() | {"gain": self.gain}
        del values["paired"]
        return values | {"sd": self.paired.sd if self.paired else None}


def compare_slices(
    rows: pd.DataFrame, min_positives: int, replicates: int, seed: int
) -> Iterator[SliceGain]:
    """Every level of every group, largest first. `rows`: metadata with patient_id, target, score
    and score_champion. Standard deviations come from `replicates` resamples of the patients.
    """
    for group, levels in slice_levels(rows).items():
        for level in levels.value_counts().index:
            part = rows[levels == level]
            yield _slice_gain(group, str(level), part, min_positives, replicates, seed)


def _slice_gain(
    group: str, level: str, rows: pd.DataFrame, min_positives: int, replicates: int, seed: int
) -> SliceGain:
    target, positives = rows[TARGET], int(rows[TARGET].sum())
    both = 0 < positives < len(rows)
    new, old = (pauc(target, rows[name]) if both else None for name in ("score", "score_champion"))
    judged = both and positives >= min_positives
    paired = None
    # One patient cannot be resampled.
    if judged and rows[PATIENT].nunique() > 1:
        paired = paired_gain(
            target, rows["score"], rows["score_champion"], rows[PATIENT], replicates, seed
        )
    return SliceGain(group, level, len(rows), positives, new, old, judged, paired)
