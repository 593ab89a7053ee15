"""Learning curves of the image networks, and the band in which a network of that kind should end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from isic.core.paths import Layout
from isic.report.curves import Records

#: Final out-of-fold pAUC of single networks on the full 401,059 rows. Claims of the public guide (no stored output)
#: and, where it was measured elsewhere, the range over published runs. They say nothing about generated data.
BANDS = (
    ("eva02_base", 0.14, 0.16),
    ("convnextv2_tiny", 0.15, 0.16),
    ("convnext", 0.13, 0.16),
    ("vit", 0.11, 0.165),
)


def expected_band(backbone: str) -> tuple[float, float] | None:
    """Published range of the final pAUC for a backbone name, or None when none is known."""
    return next(((low, high) for name, low, high in BANDS if backbone.startswith(name)), None)


def learning(layout: Layout, backbones: Sequence[str], folds: Sequence[int]) -> Records:
    """Every measured value of every epoch: {backbone, fold, epoch, name, value}; empty without history files."""
    records: Records = []
    for backbone in backbones:
        for fold in folds:
            path = layout.image_model(backbone, fold) / "history.csv"
            if path.is_file():
                records += [{"backbone": backbone, "fold": int(fold), **row} for row in _long(pd.read_csv(path))]
    return records


def _long(history: pd.DataFrame) -> Records:
    numbers = history.select_dtypes("number")
    if "epoch" not in numbers:
        numbers = numbers.assign(epoch=np.arange(1, len(numbers) + 1))
    long = numbers.melt(id_vars="epoch", var_name="name", value_name="value").dropna()
    return [
        {"epoch": int(row.epoch), "name": str(row.name_), "value": float(row.value)}
        for row in long.rename(columns={"name": "name_"}).itertuples()
        if np.isfinite(row.value)
    ]
