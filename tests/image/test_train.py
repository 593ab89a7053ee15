"""Training: it learns, it resumes to the same weights from anywhere, it stops with words a person can use."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from isic.core.errors import InputError
from isic.core.metric import auc
from isic.core.params import ImageRecipe
from isic.core.tracker import NullTracker
from isic.data.tiles import TileStore
from isic.image import clock
from isic.image import step as steps
from isic.image.embed import embed
from isic.image.train import Limits, OutOfTime, train_fold

Recipe = Callable[..., ImageRecipe]

#: Every kind of state a resume has to bring back, and a last group of micro-batches that is not full.
EVERYTHING = {
    "ema": 0.9,
    "dropout": 0.2,
    "accumulate": 2,
    "mixup": 0.4,
    "schedule": "onecycle",
    "layer_decay": 0.8,
    "freeze_epochs": 1,
    "augment": "light",
}


class Mortal(TileStore):
    """A store that kills its reader at the n-th tile."""

    def __init__(self, path: Path, reads: int) -> None:
        super().__init__(path)
        self.reads = reads

    def image(self, isic_id: str) -> np.ndarray:
        self.reads -= 1
        if self.reads < 0:
            raise KeyboardInterrupt
        return super().image(isic_id)


class Notes(NullTracker):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[dict[str, float]] = []
        self.tagged: dict[str, str] = {}

    def metrics(self, values, step=None) -> None:  # type: ignore[no-untyped-def]
        self.told.append(dict(values))

    def tags(self, values) -> None:  # type: ignore[no-untyped-def]
        self.tagged |= dict(values)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def saves_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(clock, "SAVE_FACTOR", 0.0)


@pytest.mark.parametrize("backbone", ["convnext", "vit"])
def test_learns_and_scores_unseen_tiles(
    tiles: TileStore, folds: pd.DataFrame, recipe: Recipe, tmp_path: Path, backbone: str
) -> None:
    notes = Notes()
    history = train_fold(tiles, folds, 0, recipe(backbone, epochs=8), tmp_path / "m", tmp_path / "r", notes)
    unseen = folds[folds["fold"] == 0]
    said = embed(tmp_path / "m", tiles, unseen["isic_id"].tolist())
    assert auc(unseen["target"], said.logits) > 0.85
    assert said.embeddings.dtype == np.float16
    assert said.embeddings.shape == (30, 64)
    assert [row["epoch"] for row in history] == list(range(1, 9))
    assert len(notes.told) == 8
    assert pd.read_csv(tmp_path / "m" / "history.csv")["pauc"].notna().iloc[-1]
    # The state has served its purpose; nothing but the lock's folder may stay.
    assert not list((tmp_path / "r").rglob("*.safetensors"))


def test_same_seed_same_weights_other_seed_others(
    tiles: TileStore, folds: pd.DataFrame, recipe: Recipe, tmp_path: Path
) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train_fold(tiles, folds, 0, recipe(seed=seed), tmp_path / name, tmp_path / "r", NullTracker())
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))


@pytest.mark.usefixtures("saves_often")
def test_killed_anywhere_ends_with_the_same_weights(
    tiles: TileStore, folds: pd.DataFrame, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from isic.image import loader

    # Every tile is read anew, so that reads count steps.
    monkeypatch.setattr(loader, "_MEMORY", 0)
    monkeypatch.setattr(loader.batches, "__defaults__", (0,))
    wanted = recipe(**EVERYTHING)
    train_fold(tiles, folds, 0, wanted, tmp_path / "whole", tmp_path / "r0", NullTracker())
    reads = np.random.default_rng(3).integers(16, 60, 12)
    deaths = 0
    for count in reads:
        try:
            mortal = Mortal(tiles.path, int(count))
            train_fold(mortal, folds, 0, wanted, tmp_path / "parts", tmp_path / "r1", NullTracker())
        except KeyboardInterrupt:
            assert not (tmp_path / "parts").exists()
            deaths += 1
            continue
        break
    assert deaths >= 2
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    kept = ["epoch", "loss", "pauc", "auc", "lr", "positive_share"]
    histories = [pd.read_csv(tmp_path / name / "history.csv")[kept] for name in ("whole", "parts")]
    pd.testing.assert_frame_equal(*histories, check_exact=True)


@pytest.mark.slow
def test_sigkill_then_the_same_command_ends_with_the_same_weights(
    tiles: TileStore, folds: pd.DataFrame, recipe: Recipe, tmp_path: Path
) -> None:
    wanted = recipe(epochs=40)
    (tmp_path / "recipe.json").write_text(wanted.model_dump_json())
    folds.to_parquet(tmp_path / "folds.parquet")
    script = f"""
import json, pandas as pd, torch, pathlib
from isic.core.params import ImageRecipe
from isic.core.tracker import NullTracker
from isic.data.tiles import TileStore
from isic.image import clock
from isic.image.train import train_fold
torch.set_num_threads(1)
clock.SAVE_SECONDS = clock.SAVE_FACTOR = 0.0
here = pathlib.Path({str(tmp_path)!r})
recipe = ImageRecipe(**json.loads((here / "recipe.json").read_text()))
train_fold(TileStore({str(tiles.path)!r}), pd.read_parquet(here / "folds.parquet"), 0, recipe, here / "killed",
           here / "resume", NullTracker())
"""
    child = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    while not list(tmp_path.glob("resume/*/state.safetensors")) and child.poll() is None:
        time.sleep(0.02)
    child.kill()
    assert child.wait() == -9
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "goes on in epoch" in done.stderr
    train_fold(tiles, folds, 0, wanted, tmp_path / "whole", tmp_path / "r0", NullTracker())
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))


@pytest.mark.usefixtures("saves_often")
def test_budget_stops_at_a_saved_state_and_the_next_run_goes_on(
    tiles: TileStore, folds: pd.DataFrame, recipe: Recipe, tmp_path: Path
) -> None:
    with pytest.raises(OutOfTime, match="max_hours"):
        train_fold(tiles, folds, 0, recipe(), tmp_path / "m", tmp_path / "r", NullTracker(), Limits(max_hours=1e-9))
    assert not (tmp_path / "m").exists()
    train_fold(tiles, folds, 0, recipe(), tmp_path / "m", tmp_path / "r", NullTracker())
    train_fold(tiles, folds, 0, recipe(), tmp_path / "whole", tmp_path / "r0", NullTracker())
    assert same(weights(tmp_path / "m"), weights(tmp_path / "whole"))


def test_another_recipe_does_not_go_on_from_this_state(
    tiles: TileStore, folds: pd.DataFrame, recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(OutOfTime):
        train_fold(tiles, folds, 0, recipe(), tmp_path / "m", tmp_path / "r", NullTracker(), Limits(max_hours=1e-9))
    train_fold(tiles, folds, 0, recipe(lr=0.001), tmp_path / "m", tmp_path / "r", NullTracker())
    assert "goes on" not in capsys.readouterr().err


def test_out_of_memory_halves_the_micro_batch_and_goes_on(
    tiles: TileStore, folds: pd.DataFrame, recipe: Recipe, tmp_path: Path, monkeypatch, capsys
) -> None:  # type: ignore[no-untyped-def]
    whole, largest = steps.per_tile, []

    def hungry(logits: torch.Tensor, *rest: object) -> torch.Tensor:
        if len(logits) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        largest.append(len(logits))
        return whole(logits, *rest)  # type: ignore[arg-type]

    train_fold(tiles, folds, 0, recipe(), tmp_path / "plain", tmp_path / "r0", NullTracker())
    monkeypatch.setattr(steps, "per_tile", hungry)
    train_fold(tiles, folds, 0, recipe(), tmp_path / "m", tmp_path / "r", NullTracker())
    assert max(largest) <= 4
    assert "out of GPU memory" in capsys.readouterr().err
    plain, halved = weights(tmp_path / "plain"), weights(tmp_path / "m")
    assert all(torch.allclose(plain[name], halved[name], atol=2e-3) for name in plain)


def test_a_loss_that_is_not_finite_stops_and_names_the_tiles(
    tiles: TileStore, folds: pd.DataFrame, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = steps.per_tile

    def broken(*arguments: object) -> torch.Tensor:
        loss = plain(*arguments)  # type: ignore[arg-type]
        return torch.where(torch.arange(len(loss)) == 1, torch.nan, loss)

    monkeypatch.setattr(steps, "per_tile", broken)
    with pytest.raises(InputError, match=r"not finite in epoch 1 for ISIC_\d{7}"):
        train_fold(tiles, folds, 0, recipe(), tmp_path / "m", tmp_path / "r", NullTracker())
    assert not (tmp_path / "m").exists()


def test_a_second_process_on_the_same_state_is_refused(
    tiles: TileStore, folds: pd.DataFrame, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from isic.image import train

    folder = tmp_path / "r" / "key"
    monkeypatch.setattr(train, "_key", lambda *_: "key")
    with train.checkpoint.locked(folder), pytest.raises(InputError, match="another process"):
        train_fold(tiles, folds, 0, recipe(), tmp_path / "m", tmp_path / "r", NullTracker())


@pytest.mark.parametrize("target", [0, 1])
def test_one_class_is_refused(
    tiles: TileStore, folds: pd.DataFrame, recipe: Recipe, tmp_path: Path, target: int
) -> None:
    training = folds[(folds["fold"] == 0) | (folds["target"] == target)]
    with pytest.raises(InputError, match="one class"):
        train_fold(tiles, training, 0, recipe(), tmp_path / "m", tmp_path / "r", NullTracker())


def test_early_stop_ends_before_the_last_epoch_with_the_last_weights(
    tiles: TileStore, folds: pd.DataFrame, recipe: Recipe, tmp_path: Path
) -> None:
    wanted = recipe(epochs=30, early_stop=2, validate_negatives=5)
    history = train_fold(tiles, folds, 0, wanted, tmp_path / "m", tmp_path / "r", NullTracker())
    assert len(history) < 30


def test_decoded_tiles_on_disk_change_nothing_and_their_size_is_said_first(
    tiles: TileStore, folds: pd.DataFrame, recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = {}
    for name, room in (("none", 0.0), ("tight", 1e-6), ("wide", 1.0)):
        limits = Limits(cache_gb=room, workers=1)
        train_fold(tiles, folds, 0, recipe(epochs=1), tmp_path / name, tmp_path / "r" / "x", NullTracker(), limits)
        told[name] = capsys.readouterr().err
        assert same(weights(tmp_path / name), weights(tmp_path / "none"))
    assert "decoded" not in told["none"]
    assert "would take 0.00 GB" in told["tight"]
    assert "writes decoded tiles, 0.00 GB" in told["wide"]
    assert (tmp_path / "r" / "decoded").is_dir()


def test_auxiliary_head_learns_groups_and_is_not_needed_to_score(
    tiles: TileStore, folds: pd.DataFrame, recipe: Recipe, tmp_path: Path
) -> None:
    groups = np.where(folds["target"] == 1, 0, folds.index % 3 - 1).astype(np.int64)
    wanted = recipe(aux_weight=0.3)
    train_fold(tiles, folds, 0, wanted, tmp_path / "m", tmp_path / "r", NullTracker(), groups=groups)
    assert weights(tmp_path / "m")["groups.weight"].shape == (2, 64)
    assert np.isfinite(embed(tmp_path / "m", tiles, folds["isic_id"].tolist()[:3]).logits).all()


def test_two_processes_follow_the_loss_curve_of_one(
    tiles: TileStore, folds: pd.DataFrame, recipe: Recipe, tmp_path: Path
) -> None:
    one = train_fold(tiles, folds, 0, recipe(batch_size=8), tmp_path / "1", tmp_path / "r", NullTracker())
    two = train_fold(
        tiles, folds, 0, recipe(batch_size=4), tmp_path / "2", tmp_path / "r", NullTracker(), Limits(devices=2)
    )
    assert [row["loss"] for row in two] == pytest.approx([row["loss"] for row in one], abs=1e-4)
