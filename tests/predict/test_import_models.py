"""Models trained elsewhere are imported completely or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from isic.core.errors import InputError
from isic.core.io import read_json, write_json, write_parquet
from isic.core.params import Params
from isic.core.paths import Layout
from pipelines.register import bundle_of
from tests.commands import import_models


@pytest.mark.parametrize("form", ["folder", "checkout", "bundle"])
def test_models_come_from_a_folder_a_checkout_or_a_bundle(
    layout: Layout, params: Params, tmp_path: Path, form: str
) -> None:
    backbone = next(iter(params.image.backbones))
    elsewhere = tmp_path / "elsewhere"
    if form == "bundle":
        shutil.copytree(bundle_of(layout, params).folder, elsewhere)
    else:
        shutil.copytree(
            layout.root / "models" / "image",
            elsewhere / ("models/image" if form == "checkout" else ""),
        )
    before = (layout.image_model(backbone, 1) / "model.safetensors").read_bytes()
    shutil.rmtree(layout.root / "models" / "image")
    stages = import_models(layout, elsewhere)
    assert stages == [
        f"train_image@{name}-{fold}" for name in params.image.backbones for fold in params.folds
    ]
    assert (layout.image_model(backbone, 1) / "model.safetensors").read_bytes() == before


def test_a_broken_model_leaves_everything_as_it_was(
    layout: Layout, params: Params, tmp_path: Path
) -> None:
    shutil.copytree(layout.root / "models" / "image", tmp_path / "image")
    last = list(params.image.backbones)[-1]
    (tmp_path / "image" / last / "fold1" / "model.safetensors").write_bytes(b"short")
    shutil.rmtree(layout.root / "models" / "image")
    with pytest.raises(InputError, match="fold1"):
        import_models(layout, tmp_path / "image")
    assert not (layout.root / "models" / "image").exists()


def test_other_folds_and_nothing_to_take_are_refused(
    layout: Layout, params: Params, tmp_path: Path
) -> None:
    import pandas as pd

    bundle = bundle_of(layout, params)
    folds = pd.read_parquet(layout.folds)
    write_parquet(layout.folds, folds.assign(fold=1 - folds["fold"]))
    with pytest.raises(InputError, match="other folds"):
        import_models(layout, bundle.folder)
    checkout = tmp_path / "checkout-elsewhere"
    shutil.copytree(layout.root / "models" / "image", checkout / "models" / "image")
    write_parquet(checkout / "data" / "folds.parquet", folds)
    with pytest.raises(InputError, match="other folds"):
        import_models(layout, checkout)
    with pytest.raises(InputError, match="no image models"):
        import_models(layout, tmp_path)


def test_a_network_of_another_fold_is_refused(
    layout: Layout, params: Params, tmp_path: Path
) -> None:
    """It was trained on the lesions of the fold it would score."""
    shutil.copytree(layout.root / "models" / "image", tmp_path / "image")
    first = next(iter(params.image.backbones))
    for fold in params.folds:
        change(tmp_path / "image" / first / f"fold{fold}" / "config.json", fold=fold)
    assert import_models(layout, tmp_path / "image")
    here, there = (tmp_path / "image" / first / f"fold{fold}" for fold in (0, 1))
    here.rename(tmp_path / "aside")
    there.rename(here)
    (tmp_path / "aside").rename(there)
    shutil.rmtree(layout.root / "models" / "image")
    with pytest.raises(
        InputError, match=r"fold0 was trained without fold 1, so it saw fold 0: put it in fold1"
    ):
        import_models(layout, tmp_path / "image")
    assert not (layout.root / "models" / "image").exists()


def test_a_network_of_another_timm_model_is_refused(
    layout: Layout, params: Params, tmp_path: Path
) -> None:
    one, other = list(params.image.backbones)[:2]
    shutil.copytree(layout.image_model(one, 0), tmp_path / "image" / other / "fold0")
    model = read_json(layout.image_model(one, 0) / "config.json")["model"]
    with pytest.raises(InputError, match=f"fold0 is a `{model}`, params.yaml has `test_"):
        import_models(layout, tmp_path / "image")


def change(config: Path, **values: object) -> None:
    """Lay `values` over a config.json."""
    write_json(config, {**read_json(config), **values})


def test_only_an_image_models_own_files_are_taken(
    layout: Layout, params: Params, tmp_path: Path
) -> None:
    shutil.copytree(layout.root / "models" / "image", tmp_path / "image")
    first = next(iter(params.image.backbones))
    (tmp_path / "image" / first / "fold0" / "optimizer.pkl").write_bytes(b"anything")
    (tmp_path / "image" / first / "fold0" / "logs").mkdir()
    import_models(layout, tmp_path / "image")
    taken = {file.name for file in layout.image_model(first, 0).iterdir()}
    assert taken == {"model.safetensors", "config.json", "history.csv"}
