"""Outputs of a run that the evaluation reads, aligned to the out-of-fold rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from isic.core.errors import InputError
from isic.core.io import read_parquet
from isic.core.schema import FEATURES_ONLY, ID, PATIENT, TARGET
from isic.data.tables import read_metadata

#: Required columns of an out-of-fold file; any further `score_*` column is a step of the ladder.
OOF_COLUMNS = (ID, PATIENT, TARGET, "fold", "score")


@dataclass(frozen=True)
class RunResults:
    """Out-of-fold scores, the metadata of their rows, and the scores of earlier steps.

    oof: isic_id, patient_id, target, fold, score; one row per lesion. rows: the metadata of the
    same lesions in the same order (with train-only columns, for description only). steps: earlier
    steps of the ladder, name -> score per row (NaN where a step has none). logits: backbone ->
    out-of-fold logit per row, standardised within each fold. missing: descriptions of the inputs
    that are incomplete.
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


def read_results(
    oof_path: Path, metadata_path: Path, logit_paths: Mapping[str, Mapping[int, Path]]
) -> RunResults:
    """Read the out-of-fold scores, the training metadata and, where complete, the image logits.

    logit_paths: backbone -> fold -> parquet of (isic_id, logit). Raises InputError when the scores
    are missing, hold NaN, or name a lesion that the metadata lacks.
    """
    oof = check_oof(read_parquet(oof_path), str(oof_path))
    rows = align_rows(read_metadata(metadata_path, train=True), oof[ID], str(metadata_path))
    steps = {
        name.removeprefix("score_"): oof[name].to_numpy(dtype=np.float64)
        for name in oof
        if name.startswith("score_")
    }
    if FEATURES_ONLY in oof:
        steps["features alone"] = oof[FEATURES_ONLY].to_numpy(dtype=np.float64)

    logits, missing = {}, []
    for backbone, paths in logit_paths.items():
        values = _image_logits(paths, oof)
        if values is None:
            missing.append(f"image logits of {backbone} (no complete set in {backbone}/)")
        else:
            logits[backbone] = values

    return RunResults(oof[list(OOF_COLUMNS)], rows, steps, logits, tuple(missing))


def check_oof(oof: pd.DataFrame, source: str) -> pd.DataFrame:
    """Return `oof` if it is valid, else raise InputError with the reason and `source`."""
    absent = [name for name in OOF_COLUMNS if name not in oof.columns]
    if absent:
        raise InputError(f"{source} lacks column `{absent[0]}`: rerun `dvc repro stack`")
    if oof.empty:
        raise InputError(f"{source} has no rows: rerun `dvc repro stack`")

    broken = oof.loc[~np.isfinite(oof["score"].to_numpy(dtype=np.float64)), ID]
    if len(broken):
        raise InputError(
            f"{source}: {len(broken)} scores are not finite, the first of {broken.iloc[0]}: rerun"
            " `dvc repro stack`"
        )
    if oof[ID].duplicated().any():
        raise InputError(
            f"{source}: {oof.loc[oof[ID].duplicated(), ID].iloc[0]} occurs more than once: rerun"
            " `dvc repro stack`"
        )
    return oof


def align_rows(frame: pd.DataFrame, ids: pd.Series, source: str) -> pd.DataFrame:
    """The rows of `frame` in the order of `ids`; InputError naming the first missing id."""
    position = pd.Index(frame[ID]).get_indexer(pd.Index(ids))
    if (position < 0).any():
        raise InputError(
            f"{source} has no row for {ids.iloc[int(np.argmax(position < 0))]}: rerun `dvc repro`"
        )
    return frame.iloc[position].reset_index(drop=True)


def _image_logits(paths: Mapping[int, Path], oof: pd.DataFrame) -> np.ndarray | None:
    """Out-of-fold logits of one backbone in the order of `oof`, or None when a fold or a row is
    missing.

    The scale differs between fold models, so each fold is standardised before the folds are pooled.
    """
    parts = []
    for fold in sorted(oof["fold"].unique()):
        path = paths.get(int(fold))
        if path is None or not path.is_file():
            return None
        part = read_parquet(path, columns=[ID, "logit"])
        spread = float(part["logit"].std(ddof=0)) or 1.0
        parts.append(part.assign(logit=(part["logit"] - part["logit"].mean()) / spread))

    values = pd.concat(parts).set_index(ID)["logit"].reindex(oof[ID]).to_numpy(dtype=np.float64)
    return values if np.isfinite(values).all() else None
