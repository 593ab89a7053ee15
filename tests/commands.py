"""Commands on the checkout of a test, with the files and values that its verb or stage passes."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from isic.core.params import load_params
from isic.core.paths import Layout
from isic.predict import import_models as models
from isic.predict.bundle import load_bundle
from isic.predict.scoring import MissingImages
from isic.registry import actions
from isic.registry.journal import PromotionRecord
from isic.registry.versions import CHAMPION, Registry, resolve_model
from isic.scale import folds
from isic.scale.resources import Resources
from isic.submit.submission import submit


def promote(layout: Layout, force: bool = False, reason: str = "") -> actions.Promotion:
    params = load_params(layout.params)
    registry, name = Registry(layout.root), params.register_.model
    return actions.promote(registry, name, layout.promotion_files, params.gate, force, reason)


def rollback(layout: Layout, reason: str = "") -> PromotionRecord:
    name = load_params(layout.params).register_.model
    return actions.rollback(Registry(layout.root), name, layout.promotions, reason)


def list_moves(layout: Layout) -> list[PromotionRecord]:
    return actions.list_moves(layout.root, layout.promotions)


def make_submission(
    layout: Layout, model: str | None = None, missing_images: MissingImages = "error"
) -> pd.DataFrame:
    champion = f"models:/{load_params(layout.params).register_.model}@{CHAMPION}"
    bundle = load_bundle(resolve_model(model or champion, layout.root))
    return submit(bundle, layout.raw, layout.submission, missing_images)


def import_models(layout: Layout, source: Path) -> list[str]:
    params = load_params(layout.params)
    return models.import_models(source, params.image, params.folds, layout.folds, layout.networks)


def missing_folds(layout: Layout) -> list[folds.FoldTask]:
    params = load_params(layout.params)
    return folds.missing_folds(layout.root, list(params.image.backbones), params.folds)


def run_folds(layout: Layout) -> list[str]:
    inputs = [layout.params, layout.root / "dvc.yaml", layout.folds, layout.train_images]
    devices = load_params(layout.params).image.devices
    return folds.run_folds(layout.root, missing_folds(layout), inputs, Resources(), devices)
