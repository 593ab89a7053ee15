"""A checkout with everything `register` reads, made once: real rows and tiles, untrained networks, a fitted stacker."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from isic.core.folds import make_folds
from isic.core.io import write_json, write_parquet
from isic.core.params import Params, load_params
from isic.core.paths import Layout
from isic.core.presets import write_overlay

#: Small enough for a test, everything else as committed.
SHRUNK = {
    "folds": [0, 1],
    "stack": {"rounds": 20},
    "gate": {"replicates": 200, "reload_rows": 64},
}


@pytest.fixture(autouse=True)
def own_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the caller may send a test's runs elsewhere."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, root: Path, sample_raw: Path) -> Path:
    """The checkout itself; read only."""
    from isic.data.tables import read_metadata
    from isic.tabular import build_features

    folder = tmp_path_factory.getbasetemp() / "registry-checkout"
    if folder.exists():  # made for the tests of another folder that share this fixture
        return folder
    folder.mkdir()
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(root / name, folder / name)
    write_overlay(folder / "params.yaml", SHRUNK)
    shutil.copytree(sample_raw, folder / "data" / "raw")
    layout = Layout(folder)
    params = load_params(layout.params)
    rows = read_metadata(layout.train_metadata, train=True)
    folds = make_folds(rows, len(params.folds), seed=0)
    write_parquet(layout.folds, folds)
    write_parquet(layout.features, build_features(rows, list(params.features.families)))
    for number, backbone in enumerate(params.image.backbones):
        for fold in params.folds:
            untrained_model(layout, params, backbone, fold, seed=10 * number + fold)
    fit_stacker(layout, params)
    return folder


@pytest.fixture
def layout(made: Path, tmp_path: Path) -> Layout:
    """The test's own checkout: files are shared until they are replaced, as every writer here replaces them."""
    folder = tmp_path / "checkout"
    shutil.copytree(made, folder, copy_function=os.link)
    return Layout(folder)


@pytest.fixture
def params(layout: Layout) -> Params:
    return load_params(layout.params)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh, migrated MLflow database."""
    from isic.tracking.store import connect

    folder = tmp_path_factory.getbasetemp() / "store"
    if not folder.exists():
        folder.mkdir()
        connect(folder)
    return folder / "mlflow.db"


def untrained_model(layout: Layout, params: Params, backbone: str, fold: int, seed: int) -> None:
    """Image model and held-out logits of one fold: a real network with random weights."""
    import pandas as pd
    import torch

    from isic.data.tiles import TileStore
    from isic.image.artifact import save_model
    from isic.image.backbone import create
    from isic.image.catalogue import resolve
    from isic.image.embed import embed

    torch.manual_seed(seed)
    recipe = params.image.recipe(backbone)
    net, spec = create(*resolve(recipe.model, recipe.model_args), recipe.size, "none")
    save_model(layout.image_model(backbone, fold), net.eval(), spec, {"tta": recipe.tta}, [{"epoch": 0}])
    folds = pd.read_parquet(layout.folds)
    ids = folds.loc[folds["fold"] == fold, "isic_id"].tolist()
    logits = embed(layout.image_model(backbone, fold), TileStore(layout.train_images), ids).logits
    write_parquet(layout.embedding(backbone, fold), pd.DataFrame({"isic_id": ids, "logit": logits}))


def fit_stacker(layout: Layout, params: Params) -> None:
    """Stages stack and evaluate."""
    from isic.stack import fit_stack
    from isic.stack.inputs import read_inputs

    inputs = read_inputs(layout, params.folds, tuple(params.image.backbones), embeddings=False)
    stack = fit_stack(inputs.features, inputs.logits, inputs.folds, params.stack)
    stack.save(layout.stack_model)
    write_parquet(layout.oof, stack.oof)
    write_json(layout.evaluate_metrics, stack.metrics)
