"""A small simulated run: raw files, folds, out-of-fold scores, image logits and histories."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import h5py
import numpy as np
import pandas as pd
import pytest

from isic.core.io import write_parquet
from isic.core.paths import Layout
from isic.core.schema import NUMERIC, TRAIN_COLUMNS
from isic.evaluate.results import RunResults, read_results

FOLDS = (0, 1, 2)
HOSPITALS = ("Memorial Sloan Kettering Cancer Center", "University Hospital of Basel", "ACEMID MIA")
SITES = {
    "Torso Back Top Third": ("Torso Back", "posterior torso"),
    "Torso Front Top Half": ("Torso Front", "anterior torso"),
    "Head & Neck": ("Head & Neck", "head/neck"),
    "Left Leg - Lower": ("Left Leg", "lower extremity"),
}
DIAGNOSES = (
    "Malignant::Melanoma in situ",
    "Malignant::Basal cell carcinoma",
    "Malignant::Squamous cell carcinoma",
)


def make_metadata(lesions: int, patients: int, positives: int, seed: int) -> pd.DataFrame:
    """All 55 columns; measurements are noise of a plausible size, categories depend on each other
    as in the real file.
    """
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({name: rng.normal(30, 5, lesions) for name in NUMERIC})
    owner = np.sort(rng.integers(0, patients, lesions))
    frame["isic_id"] = [f"ISIC_{number:07d}" for number in rng.permutation(lesions)]
    frame["patient_id"] = [f"IP_{number:07d}" for number in owner]
    frame["target"] = 0
    frame.loc[rng.choice(lesions, positives, replace=False), "target"] = 1
    place = rng.choice(list(SITES), lesions)
    frame["tbp_lv_location"] = place
    frame["tbp_lv_location_simple"] = [SITES[name][0] for name in place]
    frame["anatom_site_general"] = [SITES[name][1] for name in place]
    frame["sex"] = np.where(owner % 7 == 0, None, np.where(owner % 2, "male", "female"))
    frame["age_approx"] = np.where(owner % 11 == 0, np.nan, 30.0 + 5 * (owner % 12))
    frame["attribution"] = [HOSPITALS[number % 3] for number in owner]
    frame["copyright_license"] = [("CC-BY", "CC-BY-NC", "CC-0")[number % 3] for number in owner]
    frame["tbp_tile_type"] = np.where(owner % 3 == 0, "3D: white", "3D: XP")
    frame["image_type"] = "TBP tile: close-up"
    frame["clin_size_long_diam_mm"] = rng.gamma(4, 1, lesions) + 1
    frame["tbp_lv_Lext"] = rng.normal(55, 8, patients)[owner]
    frame["tbp_lv_symm_2axis_angle"] = 5.0 * rng.integers(0, 36, lesions)
    for name, spread in (("x", 200), ("y", 400), ("z", 90)):
        frame[f"tbp_lv_{name}"] = rng.normal(1000 if name == "y" else 0, spread, lesions)
    diagnosis = rng.choice(DIAGNOSES, lesions)
    frame["iddx_full"] = np.where(frame["target"] == 1, diagnosis, "Benign")
    frame["iddx_1"] = np.where(frame["target"] == 1, "Malignant", "Benign")
    frame["tbp_lv_dnn_lesion_confidence"] = 99.0
    return frame.reindex(columns=list(TRAIN_COLUMNS))


def write_tiles(path: Path, ids: list[str], seed: int) -> None:
    rng = np.random.default_rng(seed)
    with h5py.File(path, "w") as file:
        for isic_id in ids:
            colour = rng.integers(90, 220, 3)
            tile = np.clip(colour + rng.normal(0, 8, (64, 64, 3)), 0, 255).astype(np.uint8)
            cv2.circle(tile, (32, 32), int(rng.integers(6, 20)), (60, 70, 110), -1)
            file[isic_id] = np.bytes_(cv2.imencode(".jpg", tile)[1].tobytes())


def make_run(
    root: Path,
    lesions: int = 1200,
    patients: int = 40,
    positives: int = 60,
    folds: int = 3,
    images: bool = True,
    seed: int = 0,
) -> Layout:
    """Write the outputs of `dvc repro stack` under `root`."""
    rng = np.random.default_rng(seed + 1)
    root.mkdir(parents=True, exist_ok=True)
    layout = Layout(root)
    (root / "dvc.yaml").write_text("stages: {}\n")
    frame = make_metadata(lesions, patients, positives, seed)
    layout.raw.mkdir(parents=True)
    frame.to_csv(layout.train_metadata, index=False)
    fold = frame["patient_id"].str[-3:].astype(int) % folds
    oof = frame[["isic_id", "patient_id", "target"]].assign(fold=fold.astype(np.int64))
    signal = 2.2 * frame["target"] + rng.normal(0, 1, lesions)
    oof["score"] = 1 / (1 + np.exp(-(signal - 3)))
    write_parquet(layout.folds, oof.drop(columns="score"))
    write_parquet(layout.oof, oof)
    if images:
        write_tiles(layout.train_images, list(frame["isic_id"]), seed)
        for backbone in ("vit", "convnext"):
            for number in range(folds):
                _write_image_fold(layout, backbone, number, oof[oof["fold"] == number], rng)
    return layout


def _write_image_fold(
    layout: Layout, backbone: str, fold: int, rows: pd.DataFrame, rng: np.random.Generator
) -> None:
    logit = 1.2 * rows["target"] + rng.normal(fold, 1, len(rows))
    write_parquet(
        layout.embedding(backbone, fold), rows[["isic_id"]].assign(logit=logit.astype(np.float32))
    )
    model = layout.image_model(backbone, fold)
    model.mkdir(parents=True)
    history = pd.DataFrame(
        {"epoch": [1, 2, 3], "train_loss": [0.7, 0.6, 0.5], "val_pauc": [0.03, 0.06, 0.08]}
    )
    history.to_csv(model / "history.csv", index=False)


def results_of(layout: Layout, backbones: Iterable[str] = ()) -> RunResults:
    """The results of a made run, with the logits of `backbones`."""
    return read_results(layout.oof, layout.train_metadata, layout.embeddings(backbones, FOLDS))


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """One ordinary run, shared: tests read it and write elsewhere."""
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def new_run(tmp_path: Path) -> Callable[..., Layout]:
    """Function that makes unusual runs."""
    return lambda **options: make_run(tmp_path / f"run{len(list(tmp_path.iterdir()))}", **options)
