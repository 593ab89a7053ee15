"""The stacker without images, for the gate, the ladder and bundles, beside the one with them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from isic.core.io import write_parquet
from isic.core.params import StackSettings
from isic.core.paths import StackFiles
from isic.core.schema import FEATURES_ONLY
from isic.stack.fit import fit_training_data
from isic.stack.inputs import read_training_data
from isic.stack.model import Stack


def save_stacks(
    stack: Stack,
    folder: Path,
    features_only: Path,
    oof: Path,
    files: StackFiles,
    settings: StackSettings,
) -> None:
    """Write the fitted `stack` to `folder`, the one of the same settings without images to
    `features_only`, and the out-of-fold scores of both to `oof`.

    Raises InputError when one of `files` is missing or of other lesions.
    """
    plain = stack
    if files.backbones:
        data = read_training_data(replace(files, embeddings={}), settings)
        plain = fit_training_data(data, settings)
    stack.save(folder)
    plain.save(features_only)
    # Both are in the features' order of rows.
    write_parquet(oof, stack.oof.assign(**{FEATURES_ONLY: plain.oof["score"]}))
