"""The models and stored scores of a bundle folder, loaded at first use."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from isic.core.io import read_parquet
from isic.predict.manifest import Manifest

if TYPE_CHECKING:
    from isic.stack import Stack


@dataclass(frozen=True)
class BundleModels:
    """Models of the bundle in `folder`, described by `manifest`."""

    folder: Path
    manifest: Manifest

    @cached_property
    def stack(self) -> Stack:
        """The stacker."""
        from isic.stack import Stack

        return Stack.load(self.folder / "stack")

    @cached_property
    def features_only(self) -> Stack | None:
        """The stacker that needs no image model, None in bundles older than it."""
        from isic.stack import Stack

        folder = self.folder / "features_only"
        return Stack.load(folder) if folder.is_dir() else None

    def oof(self) -> pd.DataFrame:
        """The stored out-of-fold scores: isic_id, patient_id, target, fold, score."""
        return read_parquet(self.folder / "oof.parquet")
