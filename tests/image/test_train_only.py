"""Pictures that only train: which ones, in which epochs, and that runs with them resume."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from isic.core.errors import InputError
from isic.core.io import read_json, write_parquet
from isic.core.params import ImageRecipe
from isic.core.tracker import NullTracker
from isic.data.archive.duplicates import picture_hash
from isic.data.archive.people import DIAGNOSES, PICTURES
from isic.data.tiles import TileStore
from isic.image.training.sampler import Sampling
from isic.image.training.train import Limits, OutOfTime, train_fold
from isic.image.training.train_only import TrainOnly, read_train_only
from tests.data.test_archive import save
from tests.image.conftest import draw, write_tiles

Recipes = Callable[..., ImageRecipe]


@pytest.fixture(scope="session")
def people(folds: pd.DataFrame) -> pd.DataFrame:
    """Folds with patients: three lesions each."""
    return folds.assign(patient_id=[f"P{row // 3}" for row in range(len(folds))])


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An imported source of 24 pictures; ARCHIVE_00 is of patient P0, who is in fold 0."""
    folder = tmp_path_factory.mktemp("archive") / "made"
    folder.mkdir()
    random = np.random.default_rng(5)
    names = [f"ARCHIVE_{i:02d}" for i in range(24)]
    target = [int(i % 4 == 0) for i in range(24)]
    pictures = {name: draw(label, random) for name, label in zip(names, target, strict=True)}
    write_tiles(folder / PICTURES, pictures)
    noise = [random.integers(0, 255, (40, 40, 3)).astype(np.uint8) for _ in names]
    rows = pd.DataFrame(
        {
            "isic_id": names,
            "target": target,
            "diagnosis": ["Melanoma" if label else "Nevus" for label in target],
            "patient_id": [f"A{i}" for i in range(24)],
            "lesion_id": "",
            "licence": "CC-BY-NC",
            "source": "made",
            "hash": [picture_hash(picture).tobytes() for picture in noise],
            "shared": ["P0", *[""] * 23],
            "in_test": False,
        }
    )
    write_parquet(folder / DIAGNOSES, rows)
    return folder


def read(recipe: ImageRecipe, source: Path, people: pd.DataFrame, fold: int) -> TrainOnly:
    return read_train_only(recipe, [source], people, [fold])


def test_the_network_of_a_fold_never_trains_on_its_patients(
    recipe: Recipes, source: Path, people: pd.DataFrame
) -> None:
    for fold in range(3):
        found = read(recipe(archive="mix"), source, people, fold)
        assert ("ARCHIVE_00" in set(found.rows["isic_id"])) == (fold != 0)
        (only,) = found.sources
        assert only["left_out_for_patients"] == int(fold == 0)
        assert only["pictures"] == 24 - int(fold == 0)
        assert only["licences"] == ["CC-BY-NC"]
    # The fold of early stopping is scored too.
    found = read_train_only(recipe(archive="mix"), [source], people, [1, 0])
    assert "ARCHIVE_00" not in set(found.rows["isic_id"])


def test_an_epoch_has_the_share_and_the_same_share_of_positives() -> None:
    target = np.array([1] * 6 + [0] * 200 + [1] * 50 + [0] * 150)
    own = np.arange(len(target)) < 206
    mixed = Sampling(target, 3.0, 2, 8, 1, 0, own=own, share=0.25)
    alone = Sampling(target[:206], 3.0, 2, 8, 1, 0)
    for epoch in range(3):
        rows = mixed.rows(epoch)
        assert np.mean(rows >= 206) == pytest.approx(0.25, abs=0.03)
        assert np.mean(target[rows]) == pytest.approx(0.25, abs=0.03)
        assert sorted(rows[rows < 6]) == sorted([*range(6)] * 2), "all own positives, repeated"
        # They are spread over the epoch, not behind the own ones.
        others = np.flatnonzero(rows >= 206)
        assert abs(others.mean() / len(rows) - 0.5) < 0.15
        assert np.array_equal(
            Sampling(target, 3.0, 2, 8, 1, 0, own=own).rows(epoch), alone.rows(epoch)
        )


def _train(
    recipe: ImageRecipe,
    people: pd.DataFrame,
    tiles: TileStore,
    folder: Path,
    train_only: TrainOnly | None,
    limits: Limits | None = None,
) -> list[dict[str, object]]:
    return train_fold(
        tiles,
        people,
        0,
        recipe,
        folder / "m",
        folder / "r",
        NullTracker(),
        limits,
        train_only=train_only,
    )


@pytest.mark.slow
@pytest.mark.parametrize("use", ["pretrain", "mix"])
def test_a_run_with_them_resumes_to_the_same_weights(
    use: str,
    recipe: Recipes,
    source: Path,
    people: pd.DataFrame,
    tiles: TileStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted = recipe(epochs=2, archive=use, archive_epochs=2, aux_weight=0.0)
    train_only = read(wanted, source, people, 0)
    history = _train(wanted, people, tiles, tmp_path / "straight", train_only)
    assert len(history) == (4 if use == "pretrain" else 2)
    assert [row["pauc"] is None for row in history][:2] == [use == "pretrain"] * 2
    config = read_json(tmp_path / "straight" / "m" / "config.json")
    assert config["train_only"] == train_only.sources

    monkeypatch.setattr("isic.image.clock.Clock.here", lambda self: 1e9)
    for _ in range(30):
        try:
            _train(wanted, people, tiles, tmp_path / "cut", train_only, Limits(max_hours=0.1))
            break
        except OutOfTime:
            continue
    weights = [tmp_path / name / "m" / "model.safetensors" for name in ("straight", "cut")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_extra_tiles_only_train(
    recipe: Recipes, people: pd.DataFrame, tiles: TileStore, tmp_path: Path
) -> None:
    random = np.random.default_rng(1)
    for name in ("made0", "made1", "made2"):
        save(tmp_path / "extra" / f"{name}.jpg", draw(1, random))
    table = tmp_path / "extra" / "labels.csv"
    table.write_text("isic_id,target,patient_id\nmade0,1,\nmade1,1,P0\nmade2,1,P40\n")
    wanted = recipe(extra=str(tmp_path / "extra"), epochs=1)

    found = read_train_only(wanted, [], people, [0])
    assert found.rows["isic_id"].tolist() == ["made0", "made2"], "made1 is of a scored patient"
    (only,) = found.sources
    assert (only["use"], only["pictures"], only["licences"]) == ("extra", 2, ["unknown"])
    _train(wanted, people, tiles, tmp_path, found)
    shown = json.loads((tmp_path / "m" / "config.json").read_text())
    assert shown["train_only"] == [only]
    assert shown["recipe"]["extra"] == str(tmp_path / "extra")

    # The state of a run is of these very pictures.
    save(tmp_path / "extra" / "made2.jpg", draw(1, random))
    assert read_train_only(wanted, [], people, [0]).content != found.content

    save(tmp_path / "extra" / f"{people['isic_id'].iloc[0]}.jpg", draw(1, random))
    table.write_text(f"isic_id,target\n{people['isic_id'].iloc[0]},1\n")
    with pytest.raises(InputError, match="the id of another lesion"):
        read_train_only(wanted, [], people, [0])
