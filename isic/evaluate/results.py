"""Everything a run left behind that the evaluation may judge, aligned to the out-of-fold rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from isic.core.errors import InputError
from isic.core.io import read_parquet
from isic.core.paths import Layout
from isic.core.schema import ID, PATIENT, TARGET
from isic.data.tables import read_metadata

#: Columns every out-of-fold file has; any further `score_*` column is a step of the ladder.
OOF_COLUMNS = (ID, PATIENT, TARGET, "fold", "score")


@dataclass(frozen=True)
class RunResults:
    """Out-of-fold scores and what describes their rows.

    oof: isic_id, patient_id, target, fold, score; one row per lesion.
    rows: the metadata of the same lesions in the same order (train-only columns included: they explain, never score).
    steps: earlier steps of the ladder, name -> score per row (NaN where a step has none).
    logits: backbone -> out-of-fold logit per row, standardised within each fold.
    """

    oof: pd.DataFrame
    rows: pd.DataFrame
    steps: dict[str, np.ndarray] = field(default_factory=dict)
    logits: dict[str, np.ndarray] = field(default_factory=dict)
    missing: tuple[str, ...] = ()

    @property
    def target(self) -> np.ndarray:
        return self.oof[TARGET].to_numpy()

    @property
    def score(self) -> np.ndarray:
        return self.oof["score"].to_numpy(dtype=np.float64)

    @property
    def patient(self) -> np.ndarray:
        return self.oof[PATIENT].to_numpy()

    @property
    def fold(self) -> np.ndarray:
        return self.oof["fold"].to_numpy()


def read_results(layout: Layout, backbones: Sequence[str]) -> RunResults:
    """Read the out-of-fold scores, the training metadata and, where present, the image logits.

    Raises InputError when the scores are missing, hold NaN, or name a lesion that the metadata lacks.
    """
    oof = check_oof(read_parquet(layout.oof), str(layout.oof))
    rows = align(read_metadata(layout.train_metadata, train=True), oof[ID], str(layout.train_metadata))
    steps = {
        name.removeprefix("score_"): oof[name].to_numpy(dtype=np.float64) for name in oof if name.startswith("score_")
    }
    logits, missing = {}, []
    for backbone in backbones:
        values = image_logits(layout, backbone, oof)
        if values is None:
            missing.append(
                f"image logits of {backbone} (no complete set in {layout.embedding(backbone, 0).parent.name}/)"
            )
        else:
            logits[backbone] = values
    return RunResults(oof[list(OOF_COLUMNS)], rows, steps, logits, tuple(missing))


def check_oof(oof: pd.DataFrame, where: str) -> pd.DataFrame:
    """Return `oof` if it can be judged, else raise InputError saying why not."""
    lacking = [name for name in OOF_COLUMNS if name not in oof.columns]
    if lacking:
        raise InputError(f"{where} lacks column `{lacking[0]}`: rerun `dvc repro stack`")
    if oof.empty:
        raise InputError(f"{where} has no rows: rerun `dvc repro stack`")
    broken = oof.loc[~np.isfinite(oof["score"].to_numpy(dtype=np.float64)), ID]
    if len(broken):
        raise InputError(
            f"{where}: {len(broken)} scores are not finite, the first of {broken.iloc[0]}: rerun `dvc repro stack`"
        )
    if oof[ID].duplicated().any():
        raise InputError(
            f"{where}: {oof.loc[oof[ID].duplicated(), ID].iloc[0]} occurs more than once: rerun `dvc repro stack`"
        )
    return oof


def align(frame: pd.DataFrame, ids: pd.Series, where: str) -> pd.DataFrame:
    """The rows of `frame` in the order of `ids`; InputError naming the first id that `frame` lacks."""
    position = pd.Index(frame[ID]).get_indexer(pd.Index(ids))
    if (position < 0).any():
        raise InputError(f"{where} has no row for {ids.iloc[int(np.argmax(position < 0))]}: rerun `dvc repro`")
    return frame.iloc[position].reset_index(drop=True)


def image_logits(layout: Layout, backbone: str, oof: pd.DataFrame) -> np.ndarray | None:
    """Out-of-fold logits of one backbone in the order of `oof`, or None when a fold or a row is missing.

    Fold models live on different scales, so each fold is standardised before the folds are pooled.
    """
    parts = []
    for fold in sorted(oof["fold"].unique()):
        path = layout.embedding(backbone, int(fold))
        if not path.is_file():
            return None
        part = read_parquet(path, columns=[ID, "logit"])
        spread = float(part["logit"].std(ddof=0)) or 1.0
        parts.append(part.assign(logit=(part["logit"] - part["logit"].mean()) / spread))
    values = pd.concat(parts).set_index(ID)["logit"].reindex(oof[ID]).to_numpy(dtype=np.float64)
    return values if np.isfinite(values).all() else None
