"""The models and stored scores of a bundle folder, loaded at first use."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from isic.core.errors import InputError
from isic.core.io import read_parquet
from isic.core.schema import FEATURES_ONLY
from isic.predict.manifest import Manifest

if TYPE_CHECKING:
    from isic.stack import Stack


#: Stored logits of a fold's own lesions, beside its network; bundles before isic 0.3 have none.
OOF_LOGITS = "logits.parquet"


@dataclass(frozen=True)
class BundleModels:
    """Models of the bundle in `folder`, described by `manifest`."""

    folder: Path
    manifest: Manifest

    @cached_property
    def stack(self) -> Stack:
        """The stacker."""
        return self._stack("stack", set(self.manifest.backbones))

    @cached_property
    def features_only(self) -> Stack | None:
        """The stacker that needs no image model, None in bundles older than it."""
        if self.stack.features_only is not None or not self.stack.backbones:
            return self.stack.features_only or self.stack
        # Bundles of format 2 have it beside the stacker.
        is_there = (self.folder / FEATURES_ONLY).is_dir()
        return self._stack(FEATURES_ONLY, set()) if is_there else None

    def _stack(self, name: str, backbones: set[str]) -> Stack:
        """A stacker of the bundle; InputError unless it has the bundle's folds and `backbones`."""
        from isic.stack import Stack

        stack = Stack.load(self.folder / name)
        if set(stack.folds) != set(self.manifest.folds) or set(stack.backbones) != backbones:
            raise InputError(
                f"{self.folder / name} is of folds {list(stack.folds)} and backbones"
                f" {list(stack.backbones)}, unlike bundle.json: build the bundle again"
            )
        return stack

    def oof(self) -> pd.DataFrame:
        """The stored out-of-fold scores: isic_id, patient_id, target, fold, score."""
        return read_parquet(self.folder / "oof.parquet")

    def oof_logits(self, backbone: str, fold: int) -> pd.DataFrame | None:
        """The stored out-of-fold logits of one network: isic_id, logit; number format and device in
        `attrs`. None where the bundle has none.
        """
        path = self.folder / "image" / backbone / f"fold{fold}" / OOF_LOGITS
        return read_parquet(path) if path.is_file() else None
