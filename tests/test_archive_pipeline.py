"""The shrunk pipeline with pictures of another source, some of them of the challenge's patients."""

from __future__ import annotations

from pathlib import Path

import cv2
import pandas as pd
import pytest

from isic.core.io import read_json
from isic.data.sample import write_sample
from isic.data.tiles import TileStore
from tests.data.test_archive import draw_pictures, save
from tests.pipeline import SHRUNK, call, make_checkout


@pytest.mark.slow
def test_licence_and_patients_go_with_the_model(root: Path, tmp_path: Path) -> None:
    sample = SHRUNK["data"]["sample"]
    write_sample(tmp_path / "raw", **sample)
    train = pd.read_csv(tmp_path / "raw" / "train-metadata.csv", low_memory=False)
    mine, other = train["patient_id"].unique()[[2, 30]]
    names = ["own", "copy", *(f"free{i}" for i in range(40))]
    source = tmp_path / "isic2020"
    draw_pictures(source, names)
    tile = train.loc[train["patient_id"] == other, "isic_id"].iloc[0]
    pixels = TileStore(tmp_path / "raw" / "train-image.hdf5").image(tile)
    save(source / "copy.jpg", cv2.resize(pixels, None, fx=2, fy=2), quality=60)
    pd.DataFrame(
        {
            "image_name": names,
            "patient_id": [mine, *(f"Q{i}" for i in range(41))],
            "diagnosis": "nevus",
            "target": [0, 0, *([0, 1] * 20)],
        }
    ).to_csv(source / "ISIC_2020_Training_GroundTruth.csv", index=False)
    draw_pictures(tmp_path / "made", ["synthetic"])
    (tmp_path / "made" / "labels.csv").write_text("isic_id,target,licence\nsynthetic,1,CC-0\n")

    changes = {
        **SHRUNK,
        "data": {"sample": sample, "archive": {"old": {"path": str(source), "form": "isic2020"}}},
        "image": {
            **SHRUNK["image"],
            "train": {
                "epochs": 3,
                "archive": "pretrain",
                "archive_epochs": 1,
                "aux_weight": 0.1,
                "extra": str(tmp_path / "made"),
            },
        },
    }
    folder = make_checkout(root, tmp_path / "checkout", changes)
    call(folder, "dvc", "repro")

    shared = read_json(folder / "metrics" / "archive" / "old.json")["shared"]
    assert shared == {
        "patients": 2,
        "pictures": 2,
        "test_patients": 0,
        "pictures_by": {"patient_id": 1, "picture": 1},
    }
    folds = pd.read_parquet(folder / "data" / "folds.parquet").drop_duplicates("patient_id")
    fold_of = folds.set_index("patient_id")["fold"]
    for fold in (0, 1):
        config = read_json(folder / "models" / "image" / "convnext" / f"fold{fold}" / "config.json")
        old, made = config["train_only"]
        left_out = sum(fold_of[patient] == fold for patient in (mine, other))
        assert old["left_out_for_patients"] == left_out
        assert old["pictures"] == 42 - left_out
        assert (made["source"], made["pictures"], made["licences"]) == ("made", 1, ["CC-0"])

    card = (folder / "reports" / "model_card.md").read_text()
    page = (folder / "reports" / "index.html").read_text()
    licence = "Trained on pictures under CC-0, CC-BY-NC: not for commercial use."
    assert "license: cc-by-nc-4.0" in card
    for text in (card, page, read_json(folder / "models" / "bundle" / "bundle.json")["licence"]):
        assert licence in text
    call(folder, "isic", "promote")
    assert licence in call(folder, "isic", "submission").stdout
    assert "up to date" in call(folder, "dvc", "status").stdout
