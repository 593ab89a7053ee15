"""Learning curves of the image networks, and the published range of their final pAUC."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from isic.core.io import read_json
from isic.evaluate.curves import Records

#: Final out-of-fold pAUC of single networks on the full 401,059 rows. Claims of the public guide
#: (no stored output) and, where it was measured elsewhere, the range over published runs. Not valid
#: for generated data.
_PUBLISHED_PAUC = (
    ("eva02_base", 0.14, 0.16),
    ("convnextv2_tiny", 0.15, 0.16),
    ("convnext", 0.13, 0.16),
    ("vit", 0.11, 0.165),
)


def expected_band(model: str) -> tuple[float, float] | None:
    """Published range of the final pAUC of a timm model, or None: the demo's networks have none."""
    bands = [(low, high) for name, low, high in _PUBLISHED_PAUC if model.startswith(name)]
    return bands[0] if bands else None


def learning_records(models: Mapping[str, Mapping[int, Path]]) -> Records:
    """Every logged value of every epoch: {backbone, model, fold, epoch, name, value}; empty without
    history files.

    models: backbone -> fold -> folder of the trained network.
    """
    records: Records = []
    for backbone, folders in models.items():
        for fold, folder in folders.items():
            path = folder / "history.csv"
            if path.is_file():
                network = {
                    "backbone": backbone,
                    "model": _model(folder / "config.json"),
                    "fold": int(fold),
                }
                records += [{**network, **row} for row in _long(pd.read_csv(path))]
    return records


def _model(config: Path) -> str:
    """timm name of the network, "" if unknown."""
    return str(read_json(config).get("model", "")) if config.is_file() else ""


def _long(history: pd.DataFrame) -> Records:
    numeric = history.select_dtypes("number")
    if "epoch" not in numeric:
        numeric = numeric.assign(epoch=np.arange(1, len(numeric) + 1))
    long = numeric.melt(id_vars="epoch", var_name="name", value_name="value").dropna()
    return [
        {"epoch": int(row.epoch), "name": str(row.name_), "value": float(row.value)}
        for row in long.rename(columns={"name": "name_"}).itertuples()
        if np.isfinite(row.value)
    ]
