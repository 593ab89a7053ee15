"""Loss of score when raw columns are missing or the tiles are degraded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from isic.core.metric import auc, paired_difference
from isic.core.schema import NUMERIC, PATIENT
from isic.data.tiles import TileStore

#: Raw columns that are missing together in practice: one instrument, one question, one step of the
#: software.
COLUMN_GROUPS: dict[str, tuple[str, ...]] = {
    "age": ("age_approx",),
    "sex": ("sex",),
    "hospital": ("attribution",),
    "tile type": ("tbp_tile_type",),
    "site and location": ("anatom_site_general", "tbp_lv_location", "tbp_lv_location_simple"),
    "position": ("tbp_lv_x", "tbp_lv_y", "tbp_lv_z"),
    "size": (
        "clin_size_long_diam_mm",
        "tbp_lv_areaMM2",
        "tbp_lv_minorAxisMM",
        "tbp_lv_perimeterMM",
    ),
    "colour inside": ("tbp_lv_A", "tbp_lv_B", "tbp_lv_C", "tbp_lv_H", "tbp_lv_L"),
    "colour of the skin around": (
        "tbp_lv_Aext",
        "tbp_lv_Bext",
        "tbp_lv_Cext",
        "tbp_lv_Hext",
        "tbp_lv_Lext",
    ),
    "contrast": (
        "tbp_lv_deltaA",
        "tbp_lv_deltaB",
        "tbp_lv_deltaL",
        "tbp_lv_deltaLB",
        "tbp_lv_deltaLBnorm",
    ),
    "shape and border": (
        "tbp_lv_area_perim_ratio",
        "tbp_lv_eccentricity",
        "tbp_lv_norm_border",
        "tbp_lv_symm_2axis",
        "tbp_lv_symm_2axis_angle",
    ),
    "colour irregularity": (
        "tbp_lv_color_std_mean",
        "tbp_lv_norm_color",
        "tbp_lv_radial_color_std_max",
        "tbp_lv_stdL",
        "tbp_lv_stdLExt",
    ),
    "nevus confidence": ("tbp_lv_nevi_confidence",),
}

#: Rows (metadata) -> score, by the chain that gave their out-of-fold score.
Score = Callable[[pd.DataFrame], NDArray[np.float64]]


def mask_columns(rows: pd.DataFrame, columns: Sequence[str], typical: pd.DataFrame) -> pd.DataFrame:
    """`rows` with numbers of `columns` set to the median of `typical` and texts set to missing.

    The pipeline refuses missing measurements (the official files have none), hence the median.
    """
    gone: dict[str, Any] = {
        name: float(typical[name].median()) if name in NUMERIC and name != "age_approx" else np.nan
        for name in columns
    }
    return rows.assign(**{name: _filled(rows[name], value) for name, value in gone.items()})


def _filled(column: pd.Series, value: float) -> pd.Series:
    return pd.Series(value, index=column.index).astype(column.dtype)


def missing_columns(
    rows: pd.DataFrame,
    target: np.ndarray,
    base: np.ndarray,
    score: Score,
    replicates: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Change of pAUC without each group of columns, with its paired interval; the largest loss
    first.
    """
    patient = pd.factorize(rows[PATIENT])[0]
    records = []
    for name, columns in COLUMN_GROUPS.items():
        changed = score(mask_columns(rows, columns, rows))
        lost = paired_difference(target, changed, base, patient, replicates, seed)
        records.append(
            {
                "group": name,
                "columns": list(columns),
                "change": lost.value,
                "low": lost.low,
                "high": lost.high,
            }
        )
    return sorted(records, key=lambda record: record["change"])


class _ChangedTiles(TileStore):
    """Degraded tiles; `change` maps uint8 RGB to uint8 RGB."""

    def __init__(
        self, path: Path, change: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
    ) -> None:
        super().__init__(path)
        self.change = change

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "change": self.change}

    def image(self, isic_id: str) -> NDArray[np.uint8]:
        return self.change(super().image(isic_id))


def grain(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Gaussian noise of 30 levels, equal for equal tiles. Networks of 48 px average 10 levels away."""
    rng = np.random.default_rng(int(image.sum()))
    return np.clip(image + rng.normal(0, 30, image.shape), 0, 255).astype(np.uint8)


def blur(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Gaussian blur of 3 px, about 0.35 mm."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), 3), dtype=np.uint8)


def darker(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Brightness reduced by a fifth."""
    return (image * 0.8).astype(np.uint8)


def _squeezed(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """JPEG at quality 10."""
    data = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 10])[1]
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), dtype=np.uint8)[:, :, ::-1]


CHANGES = {
    "grain, 30 of 255 levels": grain,
    "blur, 3 px": blur,
    "a fifth darker": darker,
    "JPEG at quality 10": _squeezed,
}


def image_noise(
    folder: Path, tta: str, tiles: Path, ids: Sequence[str], target: np.ndarray, workers: int = 0
) -> Iterator[dict[str, Any]]:
    """Per change of the tiles: AUC of one network's logit before and after, and the mean change of
    the logit in units of its sd.
    """
    from isic.image.network.artifact import load_model
    from isic.image.network.embed import embed

    model = load_model(folder)._replace(tta=tta)
    before = embed(model, TileStore(tiles), ids, workers=workers).logits
    spread = float(before.std()) or 1.0
    for name, change in CHANGES.items():
        after = embed(model, _ChangedTiles(tiles, change), ids, workers=workers).logits
        yield {
            "change": name,
            "before": auc(target, before),
            "after": auc(target, after),
            "moved": float(np.abs(after - before).mean() / spread),
        }
