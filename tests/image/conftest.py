"""Small tiles of two classes: malignant ones are darker and larger, learnable in a few steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pandas as pd
import pytest
import torch

from isic.core.params import ImageRecipe, load_params, read_yaml
from isic.data.tiles import TileStore

ROOT = Path(__file__).resolve().parents[2]


#: Small networks of the presets' two families.
SMALL: dict[str, dict[str, Any]] = {
    "eva02": {
        "model": "eva02_tiny_patch14_224",
        "model_args": {"depth": 2, "embed_dim": 48, "num_heads": 3, "patch_size": 8},
    },
    "convnext": {
        "model": "convnextv2_atto",
        "model_args": {"depths": [1, 1, 1, 1], "dims": [8, 16, 32, 64]},
    },
}


def preset_recipe(preset: str, backbone: str, **override: object) -> ImageRecipe:
    """A preset's complete recipe, on a small network and small tiles, from random weights."""
    train = load_params(ROOT / "params.yaml").image.train.model_dump()
    laid = read_yaml(ROOT / "pipelines" / "presets" / f"{preset}.yaml")["image"]
    train |= laid["train"] | laid["backbones"]["__replace__"][backbone] | {"tta": laid["tta"]}
    shrunk = {"size": 32, "weights": "none", "epochs": 2, "batch_size": 4, "validate_negatives": 10}
    return ImageRecipe.model_validate(train | shrunk | SMALL[backbone] | override)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def draw(target: int, random: np.random.Generator) -> np.ndarray:
    """One tile, uint8 RGB of 50 to 80 px: skin with noise and a spot."""
    side = int(random.integers(50, 80))
    tile = np.full((side, side, 3), (205, 160, 135), np.uint8)
    radius = int(side * (0.3 if target else 0.15) * random.uniform(0.8, 1.2))
    colour = (90, 50, 45) if target else (150, 105, 85)
    cv2.circle(tile, (side // 2, side // 2), radius, colour, -1)
    return np.clip(tile + random.normal(0, 6, tile.shape), 0, 255).astype(np.uint8)


def write_tiles(path: Path, tiles: dict[str, np.ndarray]) -> Path:
    """An HDF5 file of the official form: one scalar of JPEG bytes per id."""
    with h5py.File(path, "w") as file:
        for name, tile in tiles.items():
            ok, data = cv2.imencode(
                ".jpg", cv2.cvtColor(tile, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 92]
            )
            assert ok
            file[name] = np.bytes_(data.tobytes())
    return path


@pytest.fixture(scope="session")
def folds() -> pd.DataFrame:
    """90 rows in three folds, five positives in each."""
    number = np.arange(90)
    return pd.DataFrame(
        {
            "isic_id": [f"ISIC_{i:07d}" for i in number],
            "target": (number % 6 == 0).astype(np.int64),
            "fold": number // 30,
        }
    )


@pytest.fixture(scope="session")
def tiles(folds: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> TileStore:
    random = np.random.default_rng(0)
    drawn = {row.isic_id: draw(row.target, random) for row in folds.itertuples()}
    return TileStore(write_tiles(tmp_path_factory.mktemp("tiles") / "train-image.hdf5", drawn))


@pytest.fixture(scope="session")
def recipe() -> Callable[..., ImageRecipe]:
    """The committed recipe of a backbone, shrunk and from random weights, with overrides."""
    image = load_params(ROOT / "params.yaml").image
    small = {"size": 32, "epochs": 3, "batch_size": 8, "validate_negatives": 10}
    small |= {"weights": "none", "lr": 0.002, "head_lr": None}

    def make(backbone: str = "convnext", **override: object) -> ImageRecipe:
        return image.recipe(backbone).model_copy(update=small | override)

    return make
