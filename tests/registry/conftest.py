"""A checkout with the inputs of `register`, made once: generated data, quick networks, a fitted
stacker.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from isic.core.calibration import fit_calibration
from isic.core.folds import make_folds
from isic.core.io import write_json, write_parquet
from isic.core.params import Params, load_params
from isic.core.paths import Layout
from isic.core.presets import write_overlay
from tests.conftest import made_once

#: Small enough for a test, everything else as committed.
SHRUNK = {
    "folds": [0, 1],
    "stack": {"rounds": 20},
    "gate": {"replicates": 200, "reload_rows": 64},
}


@pytest.fixture(autouse=True)
def own_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the caller may change the store of a test's runs."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, root: Path, sample_raw: Path) -> Path:
    """The checkout itself; read only."""
    return made_once(
        tmp_path_factory, "registry-checkout", lambda folder: _make(folder, root, sample_raw)
    )


def _make(folder: Path, root: Path, sample_raw: Path) -> None:
    from isic.data.tables import read_metadata
    from isic.tabular import build_features
    from isic.tabular.thinning import thin_patients

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
    families = list(params.features.families)
    write_parquet(layout.features, build_features(rows, families))
    write_parquet(layout.thinned, build_features(thin_patients(rows), families))
    for number, backbone in enumerate(params.image.backbones):
        for fold in params.folds:
            quick_model(layout, params, backbone, fold, seed=10 * number + fold)
    fit_stacker(layout, params)


@pytest.fixture
def layout(made: Path, tmp_path: Path) -> Layout:
    """The test's own checkout. Files are shared (linked): every writer replaces them."""
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

    def make(folder: Path) -> None:
        folder.mkdir()
        # By its address: MLflow leaves the store of an earlier test in the environment.
        connect(folder, f"sqlite:///{folder / 'mlflow.db'}")

    return made_once(tmp_path_factory, "store", make) / "mlflow.db"


def quick_model(layout: Layout, params: Params, backbone: str, fold: int, seed: int) -> None:
    """Image model and held-out logits of one fold: random features and a head fitted by least
    squares, in a second.
    """
    import numpy as np
    import pandas as pd
    import torch

    from isic.data.tiles import TileStore
    from isic.image.network.artifact import Model, save_model
    from isic.image.network.backbone import create
    from isic.image.network.catalogue import resolve
    from isic.image.network.embed import embed

    torch.manual_seed(seed)
    recipe = params.image.recipe(backbone)
    net, spec = create(*resolve(recipe.model, recipe.model_args), recipe.size, "none")
    net.eval().requires_grad_(False)
    folds, tiles = pd.read_parquet(layout.folds), TileStore(layout.train_images)
    seen, held_out = (
        folds[folds["fold"] != fold],
        folds.loc[folds["fold"] == fold, "isic_id"].tolist(),
    )
    vectors = embed(
        Model(net, spec, recipe.tta), tiles, seen["isic_id"].tolist()
    ).embeddings.astype(np.float64)
    centred = vectors - vectors.mean(axis=0)
    wanted = seen["target"] - seen["target"].mean()
    # A strong ridge: fewer rows than would determine every weight.
    weights = np.linalg.solve(
        centred.T @ centred + np.eye(centred.shape[1]) * centred.var() * 20, centred.T @ wanted
    )
    net.head.weight.copy_(torch.tensor(20 * weights[None], dtype=torch.float32))
    save_model(layout.image_model(backbone, fold), net, spec, {"tta": recipe.tta}, [{"epoch": 0}])
    logits = embed(layout.image_model(backbone, fold), tiles, held_out).logits
    write_parquet(
        layout.embedding(backbone, fold), pd.DataFrame({"isic_id": held_out, "logit": logits})
    )


def fit_stacker(layout: Layout, params: Params) -> None:
    """Stages stack and evaluate."""
    from isic.stack.fit import fit_training_data
    from isic.stack.inputs import read_training_data

    files = layout.stack_files(params.image.backbones, params.folds)
    stack = fit_training_data(read_training_data(files, params.stack), params.stack)
    stack.save(layout.stack_model)
    write_parquet(layout.oof, stack.oof)
    write_json(layout.evaluate_metrics, stack.metrics)
    calibration = fit_calibration(stack.oof["target"].to_numpy(), stack.oof["score"].to_numpy())
    write_json(layout.root / "models" / "calibration.json", calibration.to_json())
